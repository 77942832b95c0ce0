"""Scores of a segmentation network from counts of pixels. The evaluator and the bootstrap over images both use them."""

from __future__ import annotations

import numpy as np

from engine.class_scores import class_scores, mean_over


def segmentation_scores(right: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics by name: fractions in 0..1, NaN without pixels.

    `mIoU`, `Dice` and `precision` are means over the classes that occur in truth or prediction. `mean_accuracy` and
    `recall`, which are equal, are means over the classes that occur in the truth. `fwIoU` is the mean IoU weighted by
    the number of pixels of each class in the truth.

    Args:
        right: (..., K) number of pixels of each class that are predicted as that class.
        truth: (..., K) number of pixels of each class.
        predicted: (..., K) number of pixels that are predicted as each class; 0 for ignored classes.
    """
    by_class = class_scores(right, truth, predicted)
    in_truth = np.asarray(truth) > 0
    occurs = in_truth | (np.asarray(predicted) > 0)
    total = np.sum(truth, axis=-1)
    recall = mean_over(by_class["recall"], in_truth)
    with np.errstate(invalid="ignore"):
        return {
            "mIoU": mean_over(by_class["IoU"], occurs),
            "pixel_accuracy": np.sum(right, axis=-1) / total,
            "mean_accuracy": recall,
            "fwIoU": np.where(in_truth, truth * by_class["IoU"], 0.0).sum(axis=-1) / total,
            "Dice": mean_over(by_class["F1"], occurs),
            "precision": mean_over(by_class["precision"], occurs),
            "recall": recall,
        }
