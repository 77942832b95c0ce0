"""Read the results of each image that a segmentation run saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from engine.image_results import ImageResults
from segmentation.config import METRIC
from segmentation.metrics import segmentation_scores


def segmentation_results(file: Path, metric: str = METRIC) -> ImageResults:
    """Read the results in an `images.npy`.

    The score of a resample is `metric`, one of `METRICS`, over the pixels of all its images. Means over classes are
    over those that occur in the truth of these images, so that all networks have the same classes: otherwise a few
    pixels predicted as another class would add a class with IoU 0. The file has no rows of ignored classes.
    """
    ids, classes, *counts_by_row = np.load(file, allow_pickle=False).T
    keys, image = np.unique(ids, return_inverse=True)
    shape = len(keys), int(classes.max(initial=0)) + 1
    right, truth, predicted = (csr_array((column, (image, classes)), shape=shape) for column in counts_by_row)

    def score(counts: np.ndarray) -> np.ndarray:
        of_class = counts @ truth
        as_class = np.where(of_class > 0, counts @ predicted, 0)
        return segmentation_scores(counts @ right, of_class, as_class)[metric]

    return ImageResults(tuple(str(key) for key in keys), metric, score)
