"""Results of each image of one run, for statistics that resample images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEARNED = 0.05  # part of the way from the majority score to 1 from which on a network has learned something


@dataclass(frozen=True)
class ImageResults:
    """The results of one run for each of N images.

    Attributes:
        keys: N unique names of the images.
        metric: name of the headline metric.
        score: (R, N) counts of each image in each of R resamples -> (R,) metric of each resample, fractions in 0..1,
            NaN where the metric is undefined.
        digest: of the results, the same for results that differ only in their order; None if it is unknown.
        majority: the metric on all images of always answering with their most frequent class, a fraction. A network
            that scores no more may have learned nothing. 0 where there is no such answer, as for boxes.
    """

    keys: tuple[str, ...]
    metric: str
    score: Callable[[np.ndarray], np.ndarray]
    digest: str | None = None
    majority: float = 0.0


def always_most_frequent(of_class: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of always answering with the most frequent class.

    Args:
        of_class: (K,) number of images or pixels of each class.

    Returns the number of right answers and the number of answers of each class, both (K,).
    """
    answers = np.zeros_like(of_class)
    if of_class.size:
        answers[of_class.argmax()] = of_class.sum()
    return np.minimum(answers, of_class), answers


def least_score(majority: float) -> float:
    """The lowest score that counts as having learned something, a fraction.

    Args:
        majority: see `ImageResults`.
    """
    return majority + LEARNED * (1 - majority)
