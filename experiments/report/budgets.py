"""Which network is ahead at which budget: differences at several numbers of epochs, and where the order changes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.formatting import difference_fields, unlearned_text
from experiments.report.results import Comparison, Row
from experiments.statistics import Difference


@dataclass(frozen=True)
class Crossing:
    """Where a network overtakes the baseline or falls behind it.

    Attributes:
        epochs: the budget at which the difference is 0, by linear interpolation over the logarithm of the budgets.
        low, high: budgets between which the interval of the difference contains 0. They end at the smallest and the
            largest budget that was trained.
        upwards: whether the network is ahead at larger budgets.
    """

    epochs: float
    low: float
    high: float
    upwards: bool


def crossing(budgets: Sequence[float], differences: Sequence[Difference]) -> Crossing | None:
    """The first crossing of two networks; None if one of them is ahead at all budgets."""
    x = [math.log(budget) for budget in budgets]
    values = [difference.value for difference in differences]
    for i in range(len(x) - 1):
        if values[i] * values[i + 1] < 0:
            zero = _zero(x, values, i)
            low = _end(x, differences, zero, i, -1)
            high = _end(x, differences, zero, i + 1, 1)
            return Crossing(math.exp(zero), math.exp(low), math.exp(high), values[i + 1] > 0)
    return None


def unlearned_sentences(comparison: Comparison, task: str) -> list[str]:
    """One sentence for each budget at which compared networks score too little, see `unlearned_text`."""
    found = []
    for budget, at in comparison.at_budgets or [(0, comparison)]:
        if text := _unlearned(at, task):
            found.append(f"{text}." if at is comparison else f"At {budget} epochs, {text[0].lower()}{text[1:]}.")
    return found


def _unlearned(comparison: Comparison, task: str) -> str:
    compared = comparison.differences(task)
    if not compared or comparison.about.get("resplit"):  # each division has other images, which are not read
        return ""
    rows = [row for row in comparison.rows_of(task) if row.backbone in compared or row.backbone == comparison.baseline]
    majority = max(run.images.majority for row in rows for run in row.runs)
    return unlearned_text(task, comparison.metric(task), {row.backbone: row.mean for row in rows}, majority)


def budget_sentences(comparison: Comparison, task: str) -> list[str]:
    """One sentence for each backbone that was compared at all budgets: verdicts, and where it crosses the baseline."""
    budgets = comparison.at_budgets
    found = []
    for row in comparison.rows_of(task) if budgets else ():
        differences = [at.differences(task).get(row.backbone) for _, at in budgets]
        if all(differences):
            found.append(sentence(row.backbone, [budget for budget, _ in budgets], [d for d in differences if d]))
    return found


def sentence(row_name: str, budgets: Sequence[int], differences: Sequence[Difference]) -> str:
    """The verdicts at all budgets, and the crossing."""
    verdicts: dict[str, list[str]] = {}
    for budget, difference in zip(budgets, differences, strict=True):
        verdicts.setdefault(difference.verdict, []).append(str(budget))
    parts = [f"{verdict} at {_listed(found)} epochs" for verdict, found in verdicts.items()]
    text = f"{row_name}: {'; '.join(parts)}."
    found = crossing(budgets, differences)
    if found is not None:
        change = "overtakes the baseline" if found.upwards else "falls behind the baseline"
        text += f" It {change} at about {found.epochs:.3g} epochs (95% interval {found.low:.3g} to {found.high:.3g})."
    return text


def budgets_csv(comparisons: Sequence[tuple[int, Comparison]]) -> str:
    """One line for each task, budget and backbone. Scores and differences are fractions."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = ["task", "budget", "backbone", "epochs", "seeds", "mean", "difference", "low", "high", "verdict",
             "verdict_reason", "train_seconds"]  # fmt: skip
    table.writerow(names)
    for budget, comparison in comparisons:
        for row in comparison.rows:
            table.writerow(
                [
                    row.task,
                    budget,
                    row.backbone,
                    epochs_of(row),
                    len(row.runs),
                    f"{row.mean:.6f}",
                    *difference_fields(row.difference).values(),
                    f"{row.cost('train_seconds'):g}",
                ]
            )
    return text.getvalue()


def epochs_of(row: Row) -> str:
    """The number of epochs of a row's trainings; empty without one."""
    return str(row.runs[0].record["config"]["epochs"]) if row.runs else ""


def _zero(x: Sequence[float], values: Sequence[float], i: int) -> float:
    """Where the line between points i and i + 1 is 0."""
    return x[i] + (x[i + 1] - x[i]) * values[i] / (values[i] - values[i + 1])


def _end(x: Sequence[float], differences: Sequence[Difference], zero: float, start: int, step: int) -> float:
    """The end of the budgets around `zero` whose interval contains 0, from point `start` in one direction."""
    inner, i, beyond = zero, start, float("nan")
    while 0 <= i < len(x):
        value = abs(differences[i].value)
        # Distance from 0 to the end of the interval that is nearer to 0; negative if the interval contains 0.
        distance = differences[i].low if differences[i].value > 0 else -differences[i].high
        if distance > 0:
            opposite = value - distance if inner == zero else beyond
            return x[i] + (inner - x[i]) * distance / (distance + opposite)
        inner, i, beyond = x[i], i + step, -distance
    return inner


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
