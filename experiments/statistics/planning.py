"""How many seeds and images a comparison needs to find a difference, estimated from finished trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import ndtr

from engine.image_results import ImageResults
from experiments.statistics.images import resample
from experiments.statistics.variance import Spread, reaction, spread

POWER = 0.8  # probability to find the difference
MOST_SEEDS = 50
PILOT_SEEDS = 2  # fewest trainings of a backbone whose variance is used


@dataclass(frozen=True)
class Pilot:
    """What finished trainings show about the variance of a difference of two trainings.

    Attributes:
        images: number of images that they were scored on.
        image_variance: variance of a difference due to the choice of that many images.
        seed_variance: variance of the score of one training, on that many fixed images.
        reaction: the part of `seed_variance` that decreases with the number of images, see
            `experiments.statistics.variance.reaction`.
        trainings: number of trainings that `seed_variance` is estimated from.
        backbones: names of the backbones.
    """

    images: int
    image_variance: float
    seed_variance: float
    reaction: float
    trainings: int
    backbones: tuple[str, ...]

    @classmethod
    def of(cls, sides: Mapping[str, Sequence[ImageResults]], resamples: int = 500) -> Pilot | None:
        """From the results of two or more backbones with two or more trainings each; None for less.

        Raises BadInput if they were not scored on the same images.
        """
        several = {name: runs for name, runs in sides.items() if len(runs) >= PILOT_SEEDS}
        if len(several) < 2:
            return None
        scored = resample(several, resamples)
        pairs = [spread(scored[a], scored[b]).images for a, b in combinations(scored, 2)]
        freedoms = np.array([side.seeds - 1 for side in scored.values()])
        variances = np.array([side.scores.var(ddof=1) for side in scored.values()])
        seed_variance = float((freedoms * variances).sum() / freedoms.sum())
        return cls(
            images=next(iter(scored.values())).images,
            image_variance=float(np.mean(pairs)),
            seed_variance=seed_variance,
            reaction=min(seed_variance, float(np.mean([reaction(side) for side in scored.values()]))),
            trainings=sum(side.seeds for side in scored.values()),
            backbones=tuple(several),
        )

    def power(self, difference: float, seeds: int, images: int, comparisons: int = 1, level: float = 0.95) -> float:
        """Probability that a difference, a fraction, gets a verdict with this many seeds on each side and images."""
        ratio = self.images / images
        of_images = self.image_variance * ratio
        of_seeds = (self.seed_variance - self.reaction * (1 - ratio)) / seeds
        part = Spread(of_images, of_seeds, of_seeds, max(1, images - 1), 2 * (seeds - 1), images)
        error = np.sqrt(part.images + part.seeds)
        width = part.half_width(1 - (1 - level) / comparisons)
        return float(ndtr((difference - width) / error)) if error > 0 else float(difference > 0)

    def seeds_for(self, difference: float, images: int, comparisons: int = 1) -> int | None:
        """Fewest seeds on each side that find a difference with probability POWER; None for more than MOST_SEEDS."""
        for seeds in range(2, MOST_SEEDS + 1):
            if self.power(difference, seeds, images, comparisons) >= POWER:
                return seeds
        return None
