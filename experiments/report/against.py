"""Compares two comparisons: the scores of the same task and backbone, such as before and after a change."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from backbones.errors import BadInput
from engine.console import out
from experiments.report.formatting import difference_text, score_text
from experiments.report.results import Comparison
from experiments.statistics import Difference, compare_to_baseline


def print_against(folder: Path, other: Path) -> None:
    """Print the table of both. Raises BadInput if they have no task and backbone in common."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("task", "backbone", str(folder), str(other), "difference", "verdict"):
        table.add_column(heading, overflow="fold")
    found = differences(Comparison(folder), Comparison(other))
    if not found:
        raise BadInput(f"{folder} and {other} have no task and backbone in common whose trainings have finished")
    reasons = []
    for (task, backbone), (ours, theirs, difference) in found.items():
        text, verdict = "", "other images or recipe"
        if difference is not None:
            text, verdict = difference_text(difference), difference.verdict
            reasons.append(f"{task}, {backbone}: {verdict}, {difference.reason}")
        table.add_row(task, backbone.replace("[", r"\["), ours, theirs, text, verdict)
    out.print(table)
    for reason in reasons:
        out.print(reason, markup=False)


def differences(first: Comparison, second: Comparison) -> dict[tuple[str, str], tuple[str, str, Difference | None]]:
    """(task, backbone) -> scores of both as text, and the difference first - second.

    The difference is None where the two were scored on other images or trained with another recipe version. Each pair
    is a comparison of its own: they are not corrected for their number.
    """
    theirs = {(row.task, row.backbone): row for row in second.rows if row.runs}
    found: dict[tuple[str, str], tuple[str, str, Difference | None]] = {}
    for row in first.rows:
        other = theirs.get((row.task, row.backbone))
        if not row.runs or other is None:
            continue
        difference = None
        if {run.recipe for run in row.runs} == {run.recipe for run in other.runs} and row.metric == other.metric:
            sides = {"first": [run.images for run in row.runs], "second": [run.images for run in other.runs]}
            if len({run.keys for side in sides.values() for run in side}) == 1:
                difference = compare_to_baseline(sides, "second")["first"]
        found[row.task, row.backbone] = score_text(row), score_text(other), difference
    return found
