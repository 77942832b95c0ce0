"""How often the 95% interval of a simulated comparison contains the true difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.statistics import compare_to_baseline
from tests.verdicts.simulation import Side, simulate, true_score


@dataclass(frozen=True)
class Coverage:
    """Shares of the trials of one setting.

    Attributes:
        contained: share of the trials with a verdict whose interval contains the true difference.
        distinguished: share of the trials whose verdict is `better` or `worse`.
        undecided: share of the trials with too little data.
    """

    metric: str
    images: int
    seeds: int
    between_seeds: tuple[float, float]
    trials: int
    contained: float
    distinguished: float
    undecided: float


def coverage(
    metric: str,
    images: int,
    seeds: int,
    between_seeds: tuple[float, float],
    trials: int,
    skills: tuple[float, float] = (1.0, 1.0),
    resamples: int = 300,
) -> Coverage:
    """Simulate comparisons with this setting."""
    sides = Side(skills[0], between_seeds[0]), Side(skills[1], between_seeds[1])
    true = true_score(metric, sides[0]) - true_score(metric, sides[1])
    found = []
    for trial in range(trials):
        random = np.random.default_rng([trial, images, seeds])
        ours, theirs = simulate(metric, sides, (seeds, seeds), images, random)
        found.append(compare_to_baseline({"a": ours, "b": theirs}, "b", resamples=resamples, seed=trial)["a"])
    decided = [one for one in found if one.verdict != "too little data"]
    return Coverage(
        metric, images, seeds, between_seeds, trials,
        contained=float(np.mean([one.low <= true <= one.high for one in decided])) if decided else float("nan"),
        distinguished=sum(one.verdict in ("better", "worse") for one in found) / trials,
        undecided=1 - len(decided) / trials,
    )  # fmt: skip
