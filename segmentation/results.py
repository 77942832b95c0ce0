"""Results by image that a segmentation run left in its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from engine.image_results import ImageResults
from segmentation.config import METRIC


def of_segmentation(file: Path) -> ImageResults:
    """Mean IoU of an `images.npy`: over all pixels together, and the classes that occur in truth or prediction."""
    ids, classes, *counted = np.load(file, allow_pickle=False).T
    keys, image = np.unique(ids, return_inverse=True)
    shape = len(keys), int(classes.max(initial=0)) + 1
    right, truth, prediction = (csr_array((column, (image, classes)), shape=shape) for column in counted)

    def score(counts: np.ndarray) -> np.ndarray:
        intersection = counts @ right
        union = counts @ truth + counts @ prediction - intersection
        with np.errstate(invalid="ignore"):
            return np.nanmean(intersection / union, axis=1)

    return ImageResults(tuple(str(key) for key in keys), METRIC, score)
