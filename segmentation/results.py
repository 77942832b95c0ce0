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

    The score of a resample is `metric`, one of `METRICS`, over the pixels of all its images. The file has no rows of
    ignored classes.
    """
    ids, classes, *counts_by_row = np.load(file, allow_pickle=False).T
    keys, image = np.unique(ids, return_inverse=True)
    shape = len(keys), int(classes.max(initial=0)) + 1
    right, truth, predicted = (csr_array((column, (image, classes)), shape=shape) for column in counts_by_row)

    def score(counts: np.ndarray) -> np.ndarray:
        return segmentation_scores(counts @ right, counts @ truth, counts @ predicted)[metric]

    return ImageResults(tuple(str(key) for key in keys), metric, score)
