"""The difference between backbones over several random divisions of the images into training and validation images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.statistics.correction import corrected
from experiments.statistics.difference import TOO_LITTLE, Difference
from experiments.statistics.variance import Spread

FEWEST_DIVISIONS = 3


def compare_resplits(
    scores: Mapping[str, Sequence[float]], baseline: str, held_out: float, images: int, level: float = 0.95
) -> dict[str, Difference]:
    """The difference of each backbone to the baseline, where each training has its own division of the images.

    The interval covers which images were drawn for training, which were scored, and the training itself (Bouthillier
    et al., arXiv:2103.03098). Trainings on overlapping images are not independent, so the variance of the mean is that
    of the corrected resampled t-test (Nadeau and Bengio, Machine Learning 52, 2003): (1 / K + n_val / n_train) s^2.

    Args:
        scores: scores of each backbone, one for each division, in the same order.
        baseline: name of the backbone to compare with.
        held_out: share of the images that are scored, in 0..1.
        images: number of images that are scored in each division.
        level: confidence level, in 0..1.
    """
    theirs = np.asarray(scores[baseline], float)
    found, values, spreads = {}, {}, {}
    for name, own in scores.items():
        if name == baseline:
            continue
        count = min(len(own), len(theirs))
        about = Difference(
            value=float(np.mean(own) - np.mean(theirs)),
            low=float("nan"),
            high=float("nan"),
            verdict=TOO_LITTLE,
            reason=f"{count} divisions of the images; a verdict needs at least {FEWEST_DIVISIONS}",
            images=images,
            seeds=(len(own), len(theirs)),
        )
        found[name] = about
        if count < FEWEST_DIVISIONS or len(own) != len(theirs) or not np.isfinite([*own, *theirs]).all():
            continue
        differences = np.asarray(own, float) - theirs
        variance = float(differences.var(ddof=1)) * (1 / count + held_out / (1 - held_out))
        values[name] = float(differences.mean())
        spreads[name] = Spread(0.0, variance, 0.0, float("inf"), count - 1, images)
    for name, outcome in corrected(values, spreads, level).items():
        found[name] = Difference(
            values[name],
            outcome.low,
            outcome.high,
            outcome.verdict,
            f"{outcome.reason}; over {len(theirs)} divisions of the images",
            images,
            found[name].seeds,
            outcome.p_value,
            len(values),
        )
    return found
