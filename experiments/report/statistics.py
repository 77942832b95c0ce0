"""Confidence interval of the difference between two networks: a paired bootstrap over images, and over seeds.

A validation set is a random sample of images, and another sample would change the scores by some points. Both networks
are scored on the same images. The bootstrap resamples these with replacement, the same for both networks, and computes
the difference for each resample (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13). The
results of each image are computed once; a resample only changes how often each image counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.errors import BadInput, UserError
from engine.image_results import ImageResults
from engine.schema import read_record
from experiments.records import config_of
from experiments.tasks import task_spec

CHUNK = 256  # resamples in memory at once
# Images below which there is no verdict. A bootstrap interval is too narrow by a factor of about sqrt((n - 1) / n), and
# of one image it has no width at all.
FEWEST = 10


@dataclass(frozen=True)
class Difference:
    """A difference of two scores, as fractions, with its confidence interval over `images` images."""

    value: float
    low: float
    high: float
    images: int = FEWEST

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `not distinguishable` if the interval contains 0, or `too little data`."""
        if self.images < FEWEST or not np.isfinite([self.value, self.low, self.high]).all():
            return "too little data"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not distinguishable"


def bootstrap(
    ours: Sequence[ImageResults],
    baseline: Sequence[ImageResults],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Return the difference of mean scores, ours - baseline, with its confidence interval.

    Args:
        ours, baseline: results by image of each network's runs, one per seed, all on the same images.
        resamples: number of resamples.
        seed: of the random numbers.
        level: confidence level, in 0..1.

    Where a network has several seeds, they are resampled too, because trainings vary like images. With one seed the
    interval covers the choice of images only. Deviations are multiplied by sqrt(n / (n - 1)), because a resample of n
    seeds varies less than n new ones (Rao and Wu, J. Am. Stat. Assoc. 83, 1988). The ends are percentiles.

    Raises BadInput if the runs were not scored on the same images.
    """
    runs = [*ours, *baseline]
    if any(run.keys != runs[0].keys or run.metric != runs[0].metric for run in runs):
        raise BadInput("the runs to compare were not scored on the same images: evaluate them on the same split")
    random = np.random.default_rng(seed)
    images = len(runs[0].keys)
    once_each = np.ones((1, images), np.int64)
    value = float(_mean(ours, once_each)[0] - _mean(baseline, once_each)[0])
    differences = []
    for start in range(0, resamples, CHUNK):
        counts = random.multinomial(images, np.full(images, 1 / images), size=min(CHUNK, resamples - start))
        sides = []
        for side in (ours, baseline):
            scores = np.stack([run.score(counts) for run in side])
            seed_shares = random.multinomial(len(side), np.full(len(side), 1 / len(side)), size=len(counts)).T / len(
                side
            )
            center = scores.mean(0)
            widening = np.sqrt(len(side) / max(1, len(side) - 1))
            sides.append(center + widening * ((seed_shares * scores).sum(0) - center))
        differences.append(sides[0] - sides[1])
    low, high = np.nanquantile(np.concatenate(differences), [(1 - level) / 2, (1 + level) / 2])
    return Difference(value, float(low), float(high), images)


def read_images(run: Path, metric: str | None = None) -> ImageResults:
    """Read the results by image from the folder of a finished run, for a metric; by default the headline metric.

    Raises BadInput if they are absent or damaged, and UserError if they are not sufficient to compute the metric.
    """
    try:
        record = read_record(run / "record.json", config_of)
        spec = task_spec(record["task"])
        if metric is not None and metric not in spec.image_metrics:
            raise UserError(
                f"{metric} cannot be computed from the stored results of each image of {spec.name}: use "
                f"{', '.join(spec.image_metrics)}"
            )
        return spec.read_images(run, record, metric or spec.metric)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run} has no results by image that can be read ({error}): train it again") from error


def _mean(runs: Sequence[ImageResults], counts: np.ndarray) -> np.ndarray:
    return np.mean([run.score(counts) for run in runs], axis=0)
