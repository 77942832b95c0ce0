"""What a search has found so far: `trials.csv`, `front.png`, and the table that is printed at its end."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.plots import BLUE, ORANGE
from engine.record import write_text
from experiments.report.formatting import billions, millions, percent

GRAY = "#8c8c8c"
LISTED = 5  # of the best, where one number ranks them
AXIS = {"macs": (1e9, "multiply-adds of an image, billions"), "latency_ms": (1.0, "time of an image, ms")}


@dataclass(frozen=True)
class Found:
    """A trial; NaN stands for what is not known of it.

    Attributes:
        number: counted from 0, in the order of drawing.
        state: "complete", "pruned", "failed", "running" or "waiting"; "stopped" where another trial continues it, and
            "repeat" where its network had been drawn before.
        score: on images kept out of training, a fraction; where it was pruned, at its last evaluation.
        macs, params, latency_ms: of the whole model and one image; time only where the search goes by it.
        objective: what is maximised, unless a front is sought.
        seconds: of its training, those before an interruption not included.
        is_base: whether it is the network that the search varies.
        architecture: in words.
        note: why it failed, or which trial it continues or repeats.
    """

    number: int
    state: str
    score: float
    macs: float
    params: float
    latency_ms: float
    objective: float
    seconds: float
    is_base: bool
    architecture: str
    note: str


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (score, cost) that no other point beats in one without being worse in the other, cheapest first."""
    found: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0])):
        if not found or points[i][0] > points[found[-1]][0]:
            found.append(i)
    return found


def front_of(trials: Sequence[Found], cost: str) -> list[Found]:
    """The complete trials on the front of score and `cost`, a key of AXIS; cheapest first."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return [complete[i] for i in front([(trial.score, getattr(trial, cost)) for trial in complete])]


def best_of(trials: Sequence[Found], cost: str) -> list[Found]:
    """The complete trials to tell of: the best by objective, or where there is none, the front from its best score."""
    complete = [trial for trial in trials if trial.state == "complete"]
    if any(trial.objective == trial.objective for trial in complete):
        return sorted(complete, key=lambda trial: -trial.objective)[:LISTED]
    return front_of(trials, cost)[::-1]


def write_trials(trials: Sequence[Found], file: Path) -> None:
    """All trials as a table."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Found)], lineterminator="\n")
    table.writeheader()
    table.writerows({name: "" if value != value else value for name, value in asdict(t).items()} for t in trials)
    write_text(file, text.getvalue())


def draw_front(trials: Sequence[Found], cost: str, metric: str, title: str, file: Path) -> None:
    """Score against `cost`: complete and pruned trials, the front as a line, and the base."""
    unit, label = AXIS[cost]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    best = front_of(trials, cost)
    complete = [trial for trial in trials if trial.state == "complete"]
    groups: list[tuple[str, list[Found], dict[str, Any]]] = [
        ("pruned, at its last score", [t for t in trials if t.state == "pruned"], {"color": GRAY, "marker": "x"}),
        ("trial", complete, {"color": BLUE, "marker": ".", "ms": 8}),
        ("front", best, {"color": BLUE, "ls": "-", "drawstyle": "steps-post"}),
        ("base", [t for t in complete if t.is_base], {"color": ORANGE, "marker": "*", "ms": 11}),
    ]
    for name, group, style in groups:
        if group:
            costs, scores = [getattr(t, cost) / unit for t in group], [100 * t.score for t in group]
            panel.plot(costs, scores, **{"ls": "", "label": name, **style})
    for t in best:
        place = getattr(t, cost) / unit, 100 * t.score
        panel.annotate(str(t.number), place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    panel.set_xlabel(label)
    panel.set_ylabel(f"{metric} on images kept out of training, percent")
    panel.set_title(title, loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    if figure.axes[0].lines:
        panel.legend(frameon=False, fontsize=8)
    temporary = file.with_name(f".{os.getpid()}.{file.name}")
    figure.savefig(temporary, dpi=120)
    temporary.replace(file)


def table_of(trials: Sequence[Found], cost: str, metric: str, folder: Path) -> Table:
    """`best_of` the trials, and the base, by the names that `--backbone` takes."""
    columns: dict[str, Callable[[Found], str]] = {
        "backbone": lambda t: f"{folder}#{t.number}".replace("[", r"\[") + (" (base)" if t.is_base else ""),
        f"{metric}, %": lambda t: percent(t.score),
        "multiply-adds": lambda t: billions(t.macs),
        "parameters": lambda t: millions(t.params),
        "latency": lambda t: f"{t.latency_ms:.1f} ms",
        "objective": lambda t: f"{t.objective:.4f}",
    }
    told = best_of(trials, cost)
    for name, value in (("latency", told[0].latency_ms), ("objective", told[0].objective)):
        if value != value:
            del columns[name]
    rows = [*told, *(t for t in trials if t.is_base and t.state == "complete" and t not in told)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head, text in columns.items():
        is_name = head == "backbone"  # which is there to be copied, however narrow the terminal
        whole = max(len(text(t)) for t in rows) if is_name else None
        table.add_column(head, justify="left" if is_name else "right", min_width=whole)
    for t in rows:
        table.add_row(*(text(t) for text in columns.values()))
    return table
