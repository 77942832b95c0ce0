"""Precision, recall, F1 and IoU of each class, from counts. Used for images of one class and for pixels."""

from __future__ import annotations

import numpy as np


def class_scores(right: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each class, fractions in 0..1.

    Args:
        right: (..., K) number of items of each class that are predicted as that class.
        truth: (..., K) number of items of each class.
        predicted: (..., K) number of items that are predicted as each class.

    Returns:
        (..., K) arrays. `precision` is right / predicted: 0 for a class that occurs but is never predicted. `recall` is
        right / truth: NaN for a class that does not occur. `F1`, which is also the Dice coefficient, is
        2 right / (truth + predicted), and `IoU` is right / (truth + predicted - right): NaN for a class that neither
        occurs nor is predicted, as is `precision`.
    """
    right, truth, predicted = (np.asarray(counts, np.float64) for counts in (right, truth, predicted))
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": np.where((predicted == 0) & (truth > 0), 0.0, right / predicted),
            "recall": right / truth,
            "F1": 2 * right / (truth + predicted),
            "IoU": right / (truth + predicted - right),
        }


def mean_over(values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(...) means of (..., K) values over the classes that are selected in (..., K) bool. NaN without a class."""
    count = classes.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(classes, values, 0.0).sum(axis=-1) / count
