"""Read the results of each image that a classification run saved."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classification.config import METRIC
from classification.metrics import classification_scores
from engine.image_results import ImageResults, always_most_frequent


def classification_results(file: Path, metric: str = METRIC) -> ImageResults:
    """Read the results in an `images.csv`. The score of a resample is `metric`: one of `IMAGE_METRICS`."""
    with file.open(newline="") as table:
        rows = list(csv.DictReader(table))
    classes = {name: i for i, name in enumerate(dict.fromkeys(row["class"] for row in rows))}
    return results_of_labels(
        [row["file"] for row in rows],
        np.array([classes[row["class"]] for row in rows], np.int64),
        np.array([classes.get(row["predicted"], -1) for row in rows], np.int64),
        np.array([row["correct"] == "1" for row in rows], bool),
        metric,
    )


def results_of_labels(
    keys: Sequence[str], truth: np.ndarray, predicted: np.ndarray, correct: np.ndarray, metric: str = METRIC
) -> ImageResults:
    """The results of n images.

    Args:
        keys: n names of the images.
        truth: (n,) int64, class index of each image.
        predicted: (n,) int64, the same of its prediction; -1 for a class without images. Such predictions are only
            errors of other classes.
        correct: (n,) bool, whether the prediction is right.
        metric: see `classification_results`.
    """
    from scipy.sparse import csr_array

    shape = len(keys), int(truth.max(initial=-1)) + 1
    every, known = np.arange(len(keys)), np.flatnonzero((predicted >= 0) & (predicted < shape[1]))
    right = csr_array((correct.astype(np.int64), (every, truth)), shape=shape)
    images = csr_array((np.ones(len(keys), np.int64), (every, truth)), shape=shape)
    as_class = csr_array((np.ones(len(known), np.int64), (known, predicted[known])), shape=shape)

    def score(counts: np.ndarray) -> np.ndarray:
        return classification_scores(counts @ right, counts @ images, counts @ as_class)[metric]

    of_class = np.bincount(truth, minlength=shape[1])
    right_answers, answers = always_most_frequent(of_class)
    majority = float(classification_scores(right_answers, of_class, answers)[metric])
    return ImageResults(tuple(keys), metric, score, majority=majority)
