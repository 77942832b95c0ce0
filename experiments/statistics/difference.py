"""The difference between two backbones, its confidence interval, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# The verdicts. `NEITHER`: the interval contains 0.
BETTER, WORSE, NEITHER, TOO_LITTLE = "better", "worse", "not distinguishable", "too little data"

# Fewer images give no verdict: see the simulated coverage in docs/verdicts-measured.md.
FEWEST_IMAGES = 30
# The same for images on which the two sides differ, counted by their share of the variance.
FEWEST_DIFFERING = 4.0


@dataclass(frozen=True)
class Difference:
    """A difference of two mean scores, ours - baseline, as fractions.

    Attributes:
        value: the difference.
        low, high: ends of its confidence interval. With one training on a side it covers the choice of images only.
        verdict: `better`, `worse`, `not distinguishable`, or `too little data`.
        reason: one sentence on the verdict.
        images: number of images.
        seeds: numbers of trainings of both sides, ours first.
        p_value: two-sided, for no difference; not corrected for the number of comparisons. NaN without a verdict.
        comparisons: number of backbones that are compared with the baseline.
        variance: variance of `value` due to the choice of images, our trainings, and the baseline's trainings.
    """

    value: float
    low: float
    high: float
    verdict: str
    reason: str
    images: int
    seeds: tuple[int, int]
    p_value: float = float("nan")
    comparisons: int = 1
    variance: tuple[float, float, float] = (float("nan"),) * 3

    @property
    def share_of_images(self) -> float:
        """Share of the variance that is due to the choice of images, in 0..1; NaN if it is unknown."""
        total = sum(self.variance)
        return self.variance[0] / total if np.isfinite(total) and total > 0 else float("nan")
