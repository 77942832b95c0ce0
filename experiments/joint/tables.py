"""The tables of a comparison of joint and single-task networks: printed, as CSV and as Markdown, and its picture."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.console import out
from engine.record import write_text
from experiments.joint.chart import BUDGETS, draw
from experiments.report.formatting import markdown_row

PICTURE = "joint.png"
SCORES = ("backbone", "budget", "head", "metric", "single", "joint", "difference", "95% interval", "verdict", "epochs")
SHOWN = ("head", "single", "joint", "points", "verdict")  # on the screen
COSTS = ("backbone", "cost of one image", "single networks", "joint network", "joint / single")


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]]) -> None:
    """Print both tables, and write `joint.csv`, `joint.md` and `joint.png` to `folder`."""
    scores = [score_texts(row) for row in rows]
    expenses = {backbone: cost_texts(backbone, sides, rows) for backbone, sides in costs.items()}
    notes = [f"{row['head']}, {BUDGETS[row['budget']]}: {row['difference']['reason']}" for row in rows]
    for backbone in costs:
        own = [row for row in rows if row["backbone"] == backbone]
        for budget in dict.fromkeys(row["budget"] for row in own):
            lines = [shown_texts(row) for row in own if row["budget"] == budget]
            _print(f"{backbone}, {BUDGETS[budget]}, scores in percent", SHOWN, lines)
        _print(f"{backbone}, costs", COSTS[1:], [texts[1:] for texts in expenses[backbone]])
    draw(rows, costs, folder / PICTURE)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*SCORES, "reason"])
    writer.writerows([*line, row["difference"]["reason"]] for line, row in zip(scores, rows, strict=True))
    write_text(folder / "joint.csv", text.getvalue())
    parts = [
        markdown(SCORES, scores),
        "\n".join(f"- {note}" for note in notes),
        markdown(COSTS, [texts for lines in expenses.values() for texts in lines]),
    ]
    write_text(folder / "joint.md", "\n\n".join(parts) + "\n")


def _print(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for column, heading in enumerate(headings):
        texts = [line[column] for line in lines]
        longest = max((len(word) for text in texts for word in text.split()), default=0)
        table.add_column(heading, overflow="fold", no_wrap=heading == "points", min_width=longest)
    for line in lines:
        table.add_row(*line)
    out.print(table, "")


def shown_texts(row: Mapping[str, Any]) -> list[str]:
    """A line of the printed table of scores, for terminals of 80 columns."""
    texts = dict(zip(SCORES, score_texts(row), strict=True))
    return [
        f"{texts['head']}, {texts['metric']}",
        texts["single"],
        texts["joint"],
        f"{texts['difference']} ({texts['95% interval']})",
        texts["verdict"],
    ]


def score_texts(row: Mapping[str, Any]) -> list[str]:
    """A line of the table of scores, in percent and points."""
    found = row["difference"]
    epochs = row["epochs"]
    return [
        row["backbone"],
        BUDGETS[row["budget"]],
        row["head"],
        row["metric"],
        _score(row["single"]),
        _score(row["joint"]),
        f"{100 * found['value']:+.1f}",
        f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}",
        found["verdict"],
        f"{epochs['single']} and {epochs['joint']}",
    ]


def cost_texts(
    backbone: str, sides: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[list[str]]:
    """The lines of the table of costs of a backbone."""
    single, joint = sides["single"], sides["joint"]
    own = [row for row in rows if row["backbone"] == backbone and row["budget"] == "epochs"]
    values = [
        ("parameters, M", single["params"] / 1e6, joint["params"] / 1e6),
        ("multiply-adds, G", single["macs"] / 1e9, joint["macs"] / 1e9),
        ("latency, ms (median)", single["latency_ms"]["p50"], joint["latency_ms"]["p50"]),
        ("latency, ms (95th percentile)", single["latency_ms"]["p95"], joint["latency_ms"]["p95"]),
        ("memory of the process, MiB", single["memory_mb"], joint["memory_mb"]),
    ]
    if own:
        alone = sum(statistics.mean(row["train_seconds"]["single"]) for row in own)
        values.append(("training at equal epochs, s", alone, statistics.mean(own[0]["train_seconds"]["joint"])))
    return [
        [backbone, name, f"{theirs:.4g}", f"{ours:.4g}", f"{ours / theirs:.2f}" if theirs else ""]
        for name, theirs, ours in values
    ]


def _score(values: Sequence[float | None]) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    known = [100 * (math.nan if value is None else value) for value in values]
    mean = statistics.mean(known)
    return f"{mean:.1f} ± {statistics.stdev(known):.1f}" if len(known) > 1 else f"{mean:.1f}"


def markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rule = ["---"] * len(headings)
    return "\n".join(map(markdown_row, (headings, rule, *lines)))
