"""Weights of classes in the loss, and how often images are drawn, for data with frequent and rare classes.

Both are computed from the counts of labels: a sparse (N, K) array with the number of labels of each class in each
image. Labels are the image's class, its boxes, or its pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Cui et al., arXiv:1901.05555, try 0.9 to 0.9999. This value distinguishes counts up to some thousands.
BETA = 0.999


def effective_number_weights(labels: csr_array) -> np.ndarray:
    """(K,) weights by the effective number of labels: (1 - beta) / (1 - beta^n) for a class with n labels.

    Class-Balanced Loss (Cui et al., arXiv:1901.05555), with beta = 0.999: proportional to 1 / n for classes with few
    labels, and equal for all classes with more than some thousands. Classes without labels have weight 1.
    """
    counts = np.asarray(labels.sum(axis=0), np.float64)
    return np.where(counts > 0, (1 - BETA) / (1 - BETA ** np.maximum(counts, 1)), 1.0)


def median_frequency_weights(labels: csr_array) -> np.ndarray:
    """(K,) weights by the frequency of pixels: the median frequency of all classes / the frequency of the class.

    The frequency of a class is its share of the labelled pixels of the images that contain it (Eigen and Fergus,
    arXiv:1411.4734). Classes without pixels have weight 1.
    """
    pixels = np.asarray(labels.sum(axis=0), np.float64)
    of_images = np.asarray(labels.sum(axis=1), np.float64) @ (labels > 0)
    present = pixels > 0
    weights = np.ones(len(pixels))
    if present.any():
        frequencies = pixels[present] / of_images[present]
        weights[present] = np.median(frequencies) / frequencies
    return weights


def scaled(weights: np.ndarray, labels: csr_array) -> np.ndarray:
    """Scale (K,) weights so that their mean over all labels is 1: the loss, and the learning rate, keep their scale."""
    counts = np.asarray(labels.sum(axis=0), np.float64)
    return weights * (counts.sum() / (counts @ weights)) if counts.sum() else weights


def class_balanced(labels: csr_array) -> np.ndarray:
    """(N,) expected number of draws of each image in an epoch of N draws, for images of one class each.

    Each class is drawn equally often.
    """
    counts = np.asarray(labels.sum(axis=0), np.float64)
    of_class = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)
    return _per_epoch(np.asarray(labels @ of_class))


def repeat_factors(labels: csr_array) -> np.ndarray:
    """(N,) expected number of draws of each image in an epoch of N draws, for images of several classes.

    Repeat factor sampling (Gupta et al., LVIS, arXiv:1908.03195): a class in a fraction f of the images has
    the factor max(1, sqrt(t / f)), and an image has the largest factor of its classes. LVIS uses t = 0.001 for 1,203
    classes. Here t is 1 / the number of classes that occur, which is about the same there and has an effect in data
    with few classes.
    """
    present = labels > 0
    images = np.asarray(present.sum(axis=0), np.float64)
    occurs = images > 0
    share = 1 / max(1, occurs.sum())
    of_class = np.ones(len(images))
    of_class[occurs] = np.maximum(1.0, np.sqrt(share * labels.shape[0] / images[occurs]))
    of_image = np.ones(labels.shape[0])
    rows, columns = present.nonzero()
    np.maximum.at(of_image, rows, of_class[columns])
    return _per_epoch(of_image)


def _per_epoch(factors: np.ndarray) -> np.ndarray:
    """Scale (N,) factors to the sum N. Without any label each image is drawn once."""
    total = factors.sum()
    return factors * (len(factors) / total) if total else np.ones(len(factors))


def draw_images(expected: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N,) indices of N images in random order; image i occurs `expected[i]` times on average.

    Args:
        expected: (N,) expected number of occurrences, with the sum N. Each image occurs this number of times, rounded
            down or up at random (systematic sampling). The same holds for all images of equal expectation together,
            such as those of a class.
        random: random generator.
    """
    order = random.permutation(len(expected))
    order = order[expected[order].argsort(kind="stable")]
    ends = np.cumsum(expected[order])
    ends *= len(expected) / ends[-1]
    # Image order[i] is drawn once for each point of the grid offset + 0, 1, 2, ... in its interval of length expected.
    points = random.random() + np.arange(len(expected))
    drawn = order[np.searchsorted(ends, points, side="right").clip(max=len(expected) - 1)]
    return random.permutation(drawn)
