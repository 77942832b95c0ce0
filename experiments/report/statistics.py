"""How sure a difference between two networks is: a paired bootstrap over images, and over seeds if there are several.

Which images a validation set happens to hold decides scores by points. Both networks are scored on the same images, so
these are drawn anew, with replacement, for both together, and the spread of the difference tells what another set of
images might have shown (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13). Each image's
results are worked out once; a resample only counts them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from engine.image_results import ImageResults
from engine.schema import read_record
from experiments.records import config_of
from experiments.tasks import task_spec

CHUNK = 256  # resamples that are held at once


@dataclass(frozen=True)
class Difference:
    """A difference of two scores, as fractions, with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `not distinguishable` where the interval holds 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not distinguishable"


def bootstrap(
    ours: Sequence[ImageResults],
    baseline: Sequence[ImageResults],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """The difference of mean scores, ours - baseline, and the interval that covers the true one `level` of the time.

    Args:
        ours, baseline: the runs of each, one a seed; all on the same images.
        resamples: of the images, and of the seeds.
        seed: of the resamples.
        level: of confidence, in 0..1.

    Where a side has several seeds, they are resampled too, for trainings differ as images do; with one seed the
    interval is about images alone, for a single training tells nothing of others. Deviations are widened by
    sqrt(n / (n - 1)), as a resample of n seeds varies less than n new ones (Rao and Wu, J. Am. Stat. Assoc. 83, 1988).
    Interval ends are percentiles.

    Raises BadInput where the runs were not scored on the same images.
    """
    runs = [*ours, *baseline]
    if any(run.keys != runs[0].keys or run.metric != runs[0].metric for run in runs):
        raise BadInput("the runs to compare were not scored on the same images: evaluate them on the same split")
    random = np.random.default_rng(seed)
    images = len(runs[0].keys)
    even = np.ones((1, images), np.int64)
    value = float(_mean(ours, even)[0] - _mean(baseline, even)[0])
    drawn = []
    for start in range(0, resamples, CHUNK):
        counts = random.multinomial(images, np.full(images, 1 / images), size=min(CHUNK, resamples - start))
        sides = []
        for side in (ours, baseline):
            scores = np.stack([run.score(counts) for run in side])
            picked = random.multinomial(len(side), np.full(len(side), 1 / len(side)), size=len(counts)).T / len(side)
            center = scores.mean(0)
            wider = np.sqrt(len(side) / max(1, len(side) - 1))
            sides.append(center + wider * ((picked * scores).sum(0) - center))
        drawn.append(sides[0] - sides[1])
    spread = np.concatenate(drawn)
    low, high = np.nanquantile(spread, [(1 - level) / 2, (1 + level) / 2])
    return Difference(value, float(low), float(high))


def read_images(run: Path) -> ImageResults:
    """The results by image that a finished run left in its folder. Raises BadInput where they are absent or damaged."""
    try:
        record = read_record(run / "record.json", config_of)
        return task_spec(record["task"]).read_images(run, record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run} has no results by image that can be read ({error}): train it again") from error


def _mean(runs: Sequence[ImageResults], counts: np.ndarray) -> np.ndarray:
    return np.mean([run.score(counts) for run in runs], axis=0)
