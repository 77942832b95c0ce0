"""Reports the trials of a search: `trials.csv`, `front.png`, and the table that is printed at the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.plots import BLUE, ORANGE
from engine.record import write_bytes, write_text
from experiments.report.formatting import billions, millions, percent
from experiments.report.pareto import pareto_front

GRAY = "#8c8c8c"
LISTED = 5  # trials in the table, where an objective ranks them
AXIS = {"macs": (1e9, "multiply-adds per image, billions"), "latency_ms": (1.0, "time per image, ms")}


@dataclass(frozen=True)
class TrialResult:
    """A trial. NaN means unknown.

    Attributes:
        number: counts from 0, in the order of sampling.
        state: "complete", "pruned", "failed", "running" or "waiting"; "stopped" where another trial continues it;
            "repeat" where an earlier trial has the same network.
        score: a fraction, on held-out training images; of a pruned trial, at its last evaluation.
        macs, params, latency_ms: of the whole model for one image; latency only where it is the cost of the search.
        objective: the value that is maximised; NaN in a search for the Pareto front.
        seconds: duration of the training. Time before an interruption is not included.
        is_base: whether the network is the unchanged base.
        architecture: the stages, see `experiments.search.space.describe`.
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


def complete_trials(trials: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials that were trained to the end."""
    return [trial for trial in trials if trial.state == "complete"]


def front_trials(trials: Sequence[TrialResult], cost: str) -> list[TrialResult]:
    """Return the complete trials on the Pareto front of score and `cost` (a key of AXIS), in order of cost."""
    complete = complete_trials(trials)
    return [complete[i] for i in pareto_front([(trial.score, getattr(trial, cost)) for trial in complete])]


def best_trials(trials: Sequence[TrialResult], cost: str) -> list[TrialResult]:
    """Return the trials for the table, best first: by objective, or without one, the Pareto front by score."""
    complete = complete_trials(trials)
    if any(trial.objective == trial.objective for trial in complete):
        return sorted(complete, key=lambda trial: -trial.objective)[:LISTED]
    return front_trials(trials, cost)[::-1]


def write_trials(trials: Sequence[TrialResult], file: Path) -> None:
    """Write all trials as CSV. NaN becomes an empty field."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(TrialResult)], lineterminator="\n")
    table.writeheader()
    table.writerows({name: "" if value != value else value for name, value in asdict(t).items()} for t in trials)
    write_text(file, text.getvalue())


def draw_front(trials: Sequence[TrialResult], cost: str, metric: str, title: str, file: Path) -> None:
    """Draw score against `cost` (a key of AXIS): complete and pruned trials, the Pareto front, and the base."""
    unit, label = AXIS[cost]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    complete, front = complete_trials(trials), front_trials(trials, cost)
    pruned = [t for t in trials if t.state == "pruned"]
    groups: list[tuple[str, list[TrialResult], dict[str, Any]]] = [
        ("pruned, at its last score", pruned, {"color": GRAY, "marker": "x"}),
        ("trial", complete, {"color": BLUE, "marker": ".", "ms": 8}),
        ("Pareto front", front, {"color": BLUE, "ls": "-", "drawstyle": "steps-post"}),
        ("base", [t for t in complete if t.is_base], {"color": ORANGE, "marker": "*", "ms": 11}),
    ]
    for name, group, style in groups:
        if group:
            costs, scores = [getattr(t, cost) / unit for t in group], [100 * t.score for t in group]
            panel.plot(costs, scores, **{"ls": "", "label": name, **style})
    for t in front:
        place = getattr(t, cost) / unit, 100 * t.score
        panel.annotate(str(t.number), place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    panel.set_xlabel(label)
    panel.set_ylabel(f"{metric} on held-out training images, percent")
    panel.set_title(title, loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    if figure.axes[0].lines:
        panel.legend(frameon=False, fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    write_bytes(file, content.getvalue())


def trials_table(trials: Sequence[TrialResult], cost: str, metric: str, folder: Path) -> Table:
    """Return the table of `best_trials` and the base, with the names that `--backbone` accepts."""
    columns: dict[str, Callable[[TrialResult], str]] = {
        "backbone": lambda t: f"{folder}#{t.number}".replace("[", r"\[") + (" (base)" if t.is_base else ""),
        f"{metric}, %": lambda t: percent(t.score),
        "multiply-adds": lambda t: billions(t.macs),
        "parameters": lambda t: millions(t.params),
        "latency": lambda t: f"{t.latency_ms:.1f} ms",
        "objective": lambda t: f"{t.objective:.4f}",
    }
    best = best_trials(trials, cost)
    for name, value in (("latency", best[0].latency_ms), ("objective", best[0].objective)):
        if value != value:
            del columns[name]
    rows = [*best, *(t for t in complete_trials(trials) if t.is_base and t not in best)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading, text in columns.items():
        is_name = heading == "backbone"
        width = max(len(text(t)) for t in rows) if is_name else None  # names are for copying, so they are never cut
        table.add_column(heading, justify="left" if is_name else "right", min_width=width)
    for t in rows:
        table.add_row(*(text(t) for text in columns.values()))
    return table
