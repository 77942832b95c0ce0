"""The variance of a difference, from both of its sources: which images were scored, and how the trainings went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from experiments.statistics.difference import FEWEST_DIFFERING, FEWEST_IMAGES
from experiments.statistics.images import Resampled


@dataclass(frozen=True)
class Spread:
    """Variance of a difference of mean scores, with the degrees of freedom of its estimates.

    Attributes:
        images: variance due to the choice of images, for these trainings.
        ours, baseline: variance of the mean due to the trainings of each side; 0 if a side has one training.
        image_freedom: degrees of freedom of `images`.
        seed_freedom: degrees of freedom of `ours` + `baseline`, by Satterthwaite; infinite if both are 0.
        differing: number of images that the variance `images` rests on: 0 if both sides have equal results.
    """

    images: float
    ours: float
    baseline: float
    image_freedom: float
    seed_freedom: float
    differing: float

    @property
    def seeds(self) -> float:
        """Variance due to the trainings of both sides."""
        return self.ours + self.baseline

    def half_width(self, level: float) -> float:
        """Half the width of the two-sided interval with this confidence level, in 0..1.

        The quantile is the mean of those of both sources, weighted with their variances (Cochran and Cox,
        Experimental Designs, 1957, section 4.14). Satterthwaite's degrees of freedom of the sum would be too many
        where the trainings of few seeds happen to be similar: its intervals cover 89% to 96% at two seeds.
        """
        total = self.images + self.seeds
        if total <= 0:
            return 0.0
        share, tail = self.seeds / total, (1 + level) / 2
        quantile = (1 - share) * stdtrit(self.image_freedom, tail)
        if share > 0:
            quantile += share * stdtrit(self.seed_freedom, tail)
        return float(quantile * np.sqrt(total))

    def p_value(self, difference: float) -> float:
        """1 - the confidence level of the interval that just reaches 0. Found by bisection, to 1e-12."""
        if self.images + self.seeds <= 0:
            return 1.0 if difference == 0 else 0.0
        low, high = 0.0, 1.0
        while high - low > 1e-12:
            middle = (low + high) / 2
            low, high = (low, middle) if self.half_width(1 - middle) < abs(difference) else (middle, high)
        return high


def spread(ours: Resampled, baseline: Resampled) -> Spread:
    """The variance of the difference of mean scores, ours - baseline.

    The bootstrap over images estimates how much the mean difference of these trainings varies with the images (Efron
    and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 6). A part of that is how differently the trainings
    of a side react to a choice of images. The variance between trainings contains this part too, since it is measured
    on one choice of images. It is subtracted here, so that it counts once.
    """
    of_images = _variance(ours.resampled.mean(0) - baseline.resampled.mean(0), ours.images)
    counted_twice = 0.0
    parts: list[float] = []
    for side in (ours, baseline):
        parts.append(float(side.scores.var(ddof=1)) / side.seeds if side.seeds > 1 else 0.0)
        counted_twice += reaction(side) / side.seeds if side.seeds > 1 else 0.0
    seeds = sum(parts)
    terms = [part**2 / (side.seeds - 1) for part, side in zip(parts, (ours, baseline), strict=True) if part > 0]
    # The sum is not less than what the images alone vary: few trainings may be similar by chance.
    images = max(of_images - counted_twice, of_images / 2 - seeds, 0.0)
    differing, image_freedom = _influences(ours.without.mean(0) - baseline.without.mean(0))
    return Spread(
        images, parts[0], parts[1], image_freedom, seeds**2 / sum(terms) if terms else float("inf"), differing
    )


def score_half_width(side: Resampled, level: float) -> float | None:
    """Half the width of the interval of a mean score. With one training, it covers the choice of images only.

    None where it rests on too few images, by the same limits as those of verdicts.
    """
    shape = (1, side.resampled.shape[1]), (1, side.without.shape[1])
    nothing = Resampled(side.images, (None,), np.zeros(1), np.zeros(shape[0]), np.zeros(shape[1]))
    part = spread(side, nothing)
    width = part.half_width(level)
    is_enough = side.images >= FEWEST_IMAGES and part.differing >= FEWEST_DIFFERING
    return width if is_enough and np.isfinite(width) else None


def reaction(side: Resampled) -> float:
    """Variance of how differently the trainings of a backbone react to the choice of images, for one of 2 or more."""
    deviations = side.resampled - side.resampled.mean(0)
    return float(np.mean([_variance(row, side.images) for row in deviations])) * side.seeds / (side.seeds - 1)


def _variance(scores: np.ndarray, images: int) -> float:
    """Variance over resamples. A resample of N images varies less than N new images, by the factor (N - 1) / N."""
    defined = scores[np.isfinite(scores)]
    return float(defined.var(ddof=1)) * images / max(1, images - 1) if len(defined) > 1 else float("nan")


def _influences(without: np.ndarray) -> tuple[float, float]:
    """Number of groups of images that the variance rests on, and the degrees of freedom of its estimate.

    Where few images decide, the estimate of the variance is less certain than that of as many normal values. Its
    variance is sigma^4 (2 / (n - 1) + (kurtosis - 3) / n), and 2 sigma^4 divided by it are its degrees of freedom.

    Args:
        without: (G,) difference without each group.
    """
    groups = len(without)
    squares = (without - without.mean()) ** 2
    if not np.isfinite(squares).all() or squares.max(initial=0.0) < 1e-24:
        return 0.0, 1.0
    rests_on = float(squares.sum() ** 2 / (squares**2).sum())
    freedom = 2 / (2 / max(1, groups - 1) + 1 / rests_on - 3 / groups)
    return rests_on, float(min(freedom, groups - 1)) if freedom > 0 else float(groups - 1)
