"""Verdicts and intervals of several comparisons with one baseline, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.statistics.difference import BETTER, NEITHER, WORSE
from experiments.statistics.variance import Spread


@dataclass(frozen=True)
class Outcome:
    """The verdict on one difference, see `Difference`."""

    low: float
    high: float
    p_value: float
    verdict: str
    reason: str


def corrected(values: Mapping[str, float], spreads: Mapping[str, Spread], level: float) -> dict[str, Outcome]:
    """Verdicts on all these differences.

    All verdicts together have an error rate of 1 - `level`: the probability that any of them is `better` or `worse`
    though there is no difference (Holm, Scand. J. Stat. 6, 1979). The intervals are simultaneous: they all contain the
    true differences with probability `level` (Guilbaud, Biom. J. 50, 2008).
    """
    p_values = {name: spreads[name].p_value(value) for name, value in values.items()}
    rejected = holm(p_values, 1 - level)
    found = {}
    for name, value in values.items():
        low, high = interval(value, spreads[name], name in rejected, len(values), len(rejected), level)
        verdict = NEITHER if name not in rejected else BETTER if value > 0 else WORSE
        reason = f"the interval {'contains' if verdict == NEITHER else 'does not contain'} 0"
        reason += f"; corrected for {len(values)} comparisons" if len(values) > 1 else ""
        found[name] = Outcome(low, high, p_values[name], verdict, reason)
    return found


def holm(p_values: Mapping[str, float], error: float) -> set[str]:
    """The names of the hypotheses that Holm's procedure rejects at this family-wise error rate."""
    rejected: set[str] = set()
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > error / (len(p_values) - rank):
            break
        rejected.add(name)
    return rejected


def interval(
    value: float, part: Spread, is_rejected: bool, comparisons: int, rejected: int, level: float
) -> tuple[float, float]:
    """The interval that agrees with Holm's verdict.

    Of a difference without a verdict, the error is divided among such differences. Of one with a verdict, it is divided
    among all, and the interval ends at 0 if it would reach beyond.
    """
    share = comparisons if is_rejected else comparisons - rejected
    width = part.half_width(1 - (1 - level) / share)
    low, high = value - width, value + width
    if is_rejected:
        low, high = (max(low, 0.0), high) if value > 0 else (low, min(high, 0.0))
    return low, high
