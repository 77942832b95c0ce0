"""Read the results of each image that a segmentation run saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from engine.image_results import ImageResults
from segmentation.config import METRIC


def segmentation_results(file: Path) -> ImageResults:
    """Read the results in an `images.npy`.

    The score of a resample is the mean IoU over the pixels of all its images, for the classes that occur in truth or
    prediction. The file has no rows of ignored classes.
    """
    ids, classes, *counts_by_row = np.load(file, allow_pickle=False).T
    keys, image = np.unique(ids, return_inverse=True)
    shape = len(keys), int(classes.max(initial=0)) + 1
    right, truth, prediction = (csr_array((column, (image, classes)), shape=shape) for column in counts_by_row)

    def score(counts: np.ndarray) -> np.ndarray:
        intersection = counts @ right
        union = counts @ truth + counts @ prediction - intersection
        with np.errstate(invalid="ignore"):
            return np.nanmean(intersection / union, axis=1)

    return ImageResults(tuple(str(key) for key in keys), METRIC, score)
