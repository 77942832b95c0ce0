"""How a comparison's figures are worded, in tables and sentences alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.published import Count
from experiments.costs.counts import classifier_counts
from experiments.report.results import Row
from experiments.report.statistics import Difference
from experiments.tasks import TASKS


def heads(task: str) -> list[str]:
    """Column heads of a task's table."""
    costs = "parameters", "multiply-adds", "latency", "memory", "training"
    return ["backbone", f"{TASKS[task].metric}, %", "difference", "verdict", *costs]


def cells(row: Row, baseline: str) -> list[str]:
    """A row's texts under `heads`; of a backbone that did not finish, its name and why."""
    name = f"{row.backbone} (baseline)" if row.backbone == baseline else row.backbone
    if not row.runs:
        return [name, reason(row)]
    return [
        name,
        score_text(row),
        difference_text(row.difference),
        row.difference.verdict if row.difference else "",
        millions(row.cost("params")),
        billions(row.cost("macs")),
        f"{row.cost('latency_ms'):.1f} ms",
        f"{row.cost('peak_memory_mb') / 1024:.1f} GiB",
        f"{row.cost('train_seconds') / 60:.1f} min",
    ]


PUBLISHED_HEADS = ("backbone", "measured, %", "published, %", "on", "parameters", "multiply-adds", "source")


def published_cells(row: Row) -> list[str]:
    """A row's texts under `PUBLISHED_HEADS`; none where nothing is published of the network.

    Counts are those of the network as an ImageNet classifier, at its published size: published / built here.
    """
    known, classifier = row.published, row.classifier
    counts = ["", ""]
    if classifier is not None:
        built = classifier_counts(row.backbone, classifier.image_size)
        counts = [
            _counts(classifier.params, built["params"], millions),
            _counts(classifier.macs, built["macs"], billions),
        ]
    elif known is None:
        return []
    scores, on, source = "", "", classifier.source if classifier else ""
    if known is not None:
        scores = ", ".join(f"{name} {percent(value)}" for name, value in known.scores.items())
        on = ", ".join(part for part in (known.dataset, known.neck, known.training) if part)
        source = known.source if source in ("", known.source) else f"{known.source}; counts: {source}"
    return [row.backbone, f"{TASKS[row.task].metric} {score_text(row)}", scores, on, *counts, source]


def _counts(known: Count | None, built: float, text: Callable[[float], str]) -> str:
    if known is None:
        return ""
    return f"{text(known.value)} / {text(built)}" + (" - disagree" if known.disagrees(built) else "")


@dataclass(frozen=True)
class Sentence:
    """`NAME BEFORE VERDICT AFTER`, of which the verdict may be empty."""

    name: str
    before: str
    verdict: str = ""
    after: str = ""


def sentences(rows: Sequence[Row], baseline_name: str) -> list[Sentence]:
    """What a hurried reader needs: each backbone against the baseline, in score and in cost."""
    baseline = next((row for row in rows if row.backbone == baseline_name and row.runs), None)
    said = []
    for row in rows:
        if not row.runs:
            said.append(Sentence(row.backbone, f"did not finish: {reason(row)}"))
        elif row is baseline:
            said.append(Sentence(row.backbone, f"is the baseline and scores {score_text(row)}."))
        elif row.difference is None or baseline is None:
            said.append(Sentence(row.backbone, f"scores {score_text(row)}."))
        else:
            verdict = row.difference.verdict
            told = (
                f" {'from' if verdict.startswith('not') else 'than'} the baseline: {score_text(row)}, "
                f"{difference_text(row.difference)} points, with {_times(row, baseline, 'params')} the parameters, "
                f"{_times(row, baseline, 'macs')} the multiply-adds and {_times(row, baseline, 'latency_ms')} the time "
                "an image."
            )
            if row.provenance != baseline.provenance:
                told += f" The two started differently ({row.provenance}; {baseline.provenance})."
            said.append(Sentence(row.backbone, "is", verdict, told))
    return said


def reason(row: Row) -> str:
    """Why a backbone has no score."""
    return "; ".join(row.failures) or "not trained yet"


def millions(value: float) -> str:
    """Parameters: `5.29 M`; "--" for NaN."""
    return "--" if value != value else f"{value / 1e6:.2f} M"


def billions(value: float) -> str:
    """Multiply-adds: `0.39 G`, `0.017 G`; "--" for NaN."""
    return "--" if value != value else f"{value / 1e9:.2{'f' if value >= 1e8 else 'g'}} G"


def percent(value: float | None) -> str:
    """A fraction in percent, with one decimal; "--" for None and NaN."""
    return "--" if value is None or value != value else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of fractions in points, with its sign; "--" for NaN."""
    return "--" if value != value else f"{100 * value:+.1f}"


def score_text(row: Row) -> str:
    """`71.2 ± 0.4`, the spread over seeds where there are several."""
    return percent(row.mean) + (f" ± {100 * row.spread:.1f}" if row.spread is not None else "")


def difference_text(difference: Difference | None) -> str:
    """`+2.1 (+0.4 to +3.9)`, in points with the 95% interval."""
    if difference is None:
        return ""
    return f"{points(difference.value)} ({points(difference.low)} to {points(difference.high)})"


def _times(row: Row, baseline: Row, cost: str) -> str:
    return f"{row.cost(cost) / baseline.cost(cost):.2g} times"
