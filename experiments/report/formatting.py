"""Formats the figures of a comparison for tables and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.image_results import least_score
from engine.published import Count
from experiments.costs.counts import classifier_counts
from experiments.report.results import Row
from experiments.statistics import Difference
from experiments.tasks import TASKS

ABOUT_INTERVALS = (
    "Their simultaneous 95% intervals cover both sources of variance: the choice of images, by a paired bootstrap, and "
    "the trainings. They hold for this split into training and validation images. With one training on a side, an "
    "interval covers the images only, and there is no verdict."
)
ABOUT_RESPLITS = (
    "Their simultaneous 95% intervals cover which images were drawn for training and for scoring, and the trainings: "
    "each training has its own division of the images (corrected resampled t-test)."
)


PIPE = "\\|"  # in a cell of a Markdown table


class Scored(Protocol):
    """What has a mean score, a fraction, and its standard deviation over seeds; None for one seed."""

    @property
    def mean(self) -> float: ...

    @property
    def spread(self) -> float | None: ...


# Costs in charts: label of the axis, and its unit.
COST_AXES = {
    "params": ("parameters, millions", 1e6),
    "macs": ("multiply-adds, billions", 1e9),
    "latency_ms": ("milliseconds per image", 1.0),
}


def about_intervals(about: Mapping[str, Any]) -> str:
    """What the intervals of a comparison cover, from its `comparison.json`."""
    return ABOUT_RESPLITS if about.get("resplit") else ABOUT_INTERVALS


def column_headings(metric: str) -> list[str]:
    """Column headings of a task's table."""
    costs = "parameters", "multiply-adds", "latency", "memory", "training"
    return ["backbone", f"{metric}, %", "difference", "verdict", *costs]


def row_texts(row: Row, baseline: str) -> list[str]:
    """Texts of a row, one for each of `column_headings`. For a backbone without results: its name and the reason."""
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


PUBLISHED_HEADINGS = ("backbone", "measured, %", "published, %", "on", "parameters", "multiply-adds", "source")


def published_row_texts(row: Row) -> list[str]:
    """Texts of a row, one for each of `PUBLISHED_HEADINGS`; none where nothing is published about the network.

    Parameters and multiply-adds are those of the network as ImageNet classifier at its published image size:
    published / counted here.
    """
    known, classifier = row.published, row.classifier
    counts = ["", ""]
    if classifier is not None:
        counted = classifier_counts(row.backbone, classifier.image_size)
        counts = [
            _count_text(classifier.params, counted["params"], millions),
            _count_text(classifier.macs, counted["macs"], billions),
        ]
    elif known is None:
        return []
    scores, on, source = "", "", classifier.source if classifier else ""
    if known is not None:
        scores = ", ".join(f"{name} {percent(value)}" for name, value in known.scores.items())
        on = ", ".join(part for part in (known.dataset, known.neck, known.training) if part)
        source = known.source if source in ("", known.source) else f"{known.source}; counts: {source}"
    return [row.backbone, f"{row.metric} {score_text(row)}", scores, on, *counts, source]


def _count_text(known: Count | None, counted: float, text: Callable[[float], str]) -> str:
    if known is None:
        return ""
    return f"{text(known.value)} / {text(counted)}" + (" - disagree" if known.disagrees(counted) else "")


@dataclass(frozen=True)
class Sentence:
    """The sentence `NAME BEFORE VERDICT AFTER`. Verdict and rest may be empty."""

    name: str
    before: str
    verdict: str = ""
    after: str = ""


def sentences(rows: Sequence[Row], baseline_name: str) -> list[Sentence]:
    """Return one sentence for each backbone, which compares its score and cost with the baseline's."""
    baseline = next((row for row in rows if row.backbone == baseline_name and row.runs), None)
    found = []
    for row in rows:
        if not row.runs:
            found.append(Sentence(row.backbone, f"did not finish: {reason(row)}"))
        elif row is baseline:
            found.append(Sentence(row.backbone, f"is the baseline and scores {score_text(row)}."))
        elif row.difference is None or baseline is None:
            found.append(Sentence(row.backbone, f"scores {score_text(row)}."))
        else:
            verdict = row.difference.verdict
            if verdict == "too little data":
                scores = f"scores {score_text(row)}, the baseline {score_text(baseline)}:"
                found.append(Sentence(row.backbone, scores, verdict, f" for a verdict ({row.difference.reason})."))
                continue
            rest = (
                f" {'from' if verdict.startswith('not') else 'than'} the baseline: {score_text(row)}, "
                f"{difference_text(row.difference)} points, with {_times(row, baseline, 'params')} the parameters, "
                f"{_times(row, baseline, 'macs')} the multiply-adds and {_times(row, baseline, 'latency_ms')} the time "
                f"per image. {_sentence(row.difference.reason)}"
            )
            if row.provenance != baseline.provenance:
                rest += f" The two started differently ({row.provenance}; {baseline.provenance})."
            found.append(Sentence(row.backbone, "is", verdict, rest))
    return found


def style_sentence(rows: Sequence[Row]) -> str:
    """Say whether padding and biases of neck and heads are the same for every backbone.

    Empty for a task without this setting, and before the first training has finished.
    """
    backbones_by_style: dict[str, list[str]] = {}
    for row in rows:
        for style in dict.fromkeys(run.style for run in row.runs if run.style):
            backbones_by_style.setdefault(style, []).append(row.backbone)
    if not backbones_by_style:
        return ""
    if len(backbones_by_style) == 1:
        (style,) = backbones_by_style
        return f"Neck and heads have the same padding and biases for every backbone (style {style})."
    styles = ", ".join(f"{style} for {' and '.join(names)}" for style, names in backbones_by_style.items())
    return f"Padding and biases of neck and heads are not the same for every backbone: style {styles}."


def unlearned_text(task: str, metric: str, means: Mapping[str, float], majority: float) -> str:
    """Which networks score so little that it says nothing about them, without a full stop; empty if there are none.

    Args:
        task, metric: of the scores. Without a most frequent class, only the headline metric counts: one of some boxes,
            such as AP_small, can be near 0 for a good detector.
        means: name -> mean score, a fraction.
        majority: see `ImageResults`.
    """
    least = least_score(majority)
    names = ", ".join(name for name, mean in means.items() if mean < least)
    if not names or not (majority or metric == TASKS[task].metric):
        return ""
    if not majority:
        return f"These networks have learned hardly anything, with an {metric} below {100 * least:.1f}: {names}"
    return (
        "These networks score hardly more than always answering with the most frequent class, which scores "
        f"{100 * majority:.1f} (limit: {100 * least:.1f}): {names}"
    )


def stopped_sentence(rows: Sequence[Row]) -> str:
    """Say which trainings early stopping ended, and after how many epochs. Empty if there are none."""
    stopped = [
        f"{row.backbone} with seed {run.record['seed']} after {run.stopped_early} of {run.record['config']['epochs']}"
        for row in rows
        for run in row.runs
        if run.stopped_early
    ]
    return f"Trainings that stopped early, and their epochs: {', '.join(stopped)}." if stopped else ""


def micro_batch_sentence(rows: Sequence[Row]) -> str:
    """Say which backbones processed batches in other micro-batches, see `accumulate="auto"`. Empty if all are equal."""
    backbones_by_size: dict[int, list[str]] = {}
    for row in rows:
        for size in dict.fromkeys(run.micro_batch for run in row.runs):
            backbones_by_size.setdefault(size, []).append(row.backbone)
    if len(backbones_by_size) < 2:
        return ""
    sizes = ", ".join(f"{size} for {' and '.join(names)}" for size, names in sorted(backbones_by_size.items()))
    return f"Batches were processed in micro-batches of different sizes, on which batch norm depends: {sizes}."


def reason(row: Row) -> str:
    """The reason why a backbone has no score."""
    return "; ".join(row.failures) or "not trained yet"


def millions(value: float) -> str:
    """Format parameters: `5.29 M`; "--" for NaN."""
    return "--" if value != value else f"{value / 1e6:.2f} M"


def billions(value: float) -> str:
    """Format multiply-adds: `0.39 G`, `0.017 G`; "--" for NaN."""
    return "--" if value != value else f"{value / 1e9:.2{'f' if value >= 1e8 else 'g'}} G"


def percent(value: float | None) -> str:
    """Format a fraction in percent, with one decimal; "--" for None and NaN."""
    return "--" if value is None or value != value else f"{100 * value:.1f}"


def points(value: float) -> str:
    """Format a difference of fractions in percentage points, with its sign; "--" for NaN."""
    return "--" if value != value else f"{100 * value:+.1f}"


def score_text(row: Scored) -> str:
    """Format the mean score: `71.2 ± 0.4`, with the standard deviation if there are several seeds."""
    return percent(row.mean) + (f" ± {100 * row.spread:.1f}" if row.spread is not None else "")


def difference_fields(difference: Difference | None) -> dict[str, str]:
    """The columns of CSV tables on a difference, as fractions; empty texts for the baseline."""
    if difference is None:
        return dict.fromkeys(("difference", "low", "high", "verdict", "verdict_reason"), "")
    ends = {"difference": difference.value, "low": difference.low, "high": difference.high}
    texts = {name: f"{value:.6f}" for name, value in ends.items()}
    return {**texts, "verdict": difference.verdict, "verdict_reason": difference.reason}


def difference_text(difference: Difference | None) -> str:
    """Format a difference in percentage points with its 95% interval: `+2.1 (+0.4 to +3.9)`."""
    if difference is None:
        return ""
    return f"{points(difference.value)} ({points(difference.low)} to {points(difference.high)})"


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:]}."


def _times(row: Row, baseline: Row, cost: str) -> str:
    return f"{row.cost(cost) / baseline.cost(cost):.2g} times"


def markdown_row(texts: Iterable[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(text.replace('|', PIPE) for text in texts)} |"
