"""Read the results of each image that a segmentation run saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.image_results import ImageResults, always_most_frequent
from segmentation.config import METRIC
from segmentation.metrics import segmentation_scores

if TYPE_CHECKING:
    from scipy.sparse import sparray


def segmentation_results(file: Path, metric: str = METRIC) -> ImageResults:
    """Read the results in an `images.npy`. The file has no rows of ignored classes. See `results_of_counts`."""
    from scipy.sparse import csr_array

    ids, classes, *counts_by_row = np.load(file, allow_pickle=False).T
    keys, image = np.unique(ids, return_inverse=True)
    shape = len(keys), int(classes.max(initial=0)) + 1
    right, truth, predicted = (csr_array((column, (image, classes)), shape=shape) for column in counts_by_row)
    return results_of_counts([str(key) for key in keys], right, truth, predicted, metric)


def results_of_counts(
    keys: Sequence[str],
    right: np.ndarray | sparray,
    truth: np.ndarray | sparray,
    predicted: np.ndarray | sparray,
    metric: str = METRIC,
) -> ImageResults:
    """The results of n images.

    The score of a resample is `metric`, one of `METRICS`, over the pixels of all its images. Means over classes are
    over those that occur in the truth of these images, so that all networks have the same classes: otherwise a few
    pixels predicted as another class would add a class with IoU 0.

    Args:
        keys: n names of the images.
        right, truth, predicted: (n, K) numbers of pixels of each class, see `segmentation_scores`.
        metric: name of the metric.
    """

    def score(counts: np.ndarray) -> np.ndarray:
        of_class = counts @ truth
        as_class = np.where(of_class > 0, counts @ predicted, 0)
        return segmentation_scores(counts @ right, of_class, as_class)[metric]

    of_class = np.asarray(truth.sum(axis=0))
    right_answers, answers = always_most_frequent(of_class)
    majority = float(segmentation_scores(right_answers, of_class, answers)[metric])
    return ImageResults(tuple(keys), metric, score, majority=majority)
