"""Scores of a classifier from counts by class. The evaluator and the bootstrap over images both use them."""

from __future__ import annotations

import numpy as np

from engine.class_scores import class_scores, mean_over


def classification_scores(right: np.ndarray, images: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics that depend on the most probable class only, by name: fractions in 0..1, NaN without images.

    `precision`, `recall` and `F1` are means over the classes that have images (macro averages). `balanced_accuracy` is
    the mean accuracy of these classes, which equals `recall`; `balanced` is its name in earlier versions.

    Args:
        right: (..., K) number of images of each class that are classified correctly.
        images: (..., K) number of images of each class.
        predicted: (..., K) number of images that are classified as each class.
    """
    by_class, present = class_scores(right, images, predicted), np.asarray(images) > 0
    macro = {name: mean_over(by_class[name], present) for name in ("precision", "recall", "F1")}
    with np.errstate(invalid="ignore"):
        top1 = np.sum(right, axis=-1) / np.sum(images, axis=-1)
    return {"top1": top1, "balanced": macro["recall"], "balanced_accuracy": macro["recall"], **macro}
