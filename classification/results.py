"""Read the results of each image that a classification run saved."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from classification.config import METRIC
from classification.metrics import classification_scores
from engine.image_results import ImageResults


def classification_results(file: Path, metric: str = METRIC) -> ImageResults:
    """Read the results in an `images.csv`. The score of a resample is `metric`: one of `IMAGE_METRICS`."""
    with file.open(newline="") as table:
        rows = list(csv.DictReader(table))
    classes = {name: i for i, name in enumerate(dict.fromkeys(row["class"] for row in rows))}
    shape = len(rows), len(classes)
    truth = [classes[row["class"]] for row in rows]
    correct = [row["correct"] == "1" for row in rows]
    # Classes without images have no column: predictions of them are only errors of other classes.
    predicted = [(i, classes[row["predicted"]]) for i, row in enumerate(rows) if row["predicted"] in classes]
    every = np.arange(len(rows))
    right = csr_array((np.array(correct, np.int64), (every, truth)), shape=shape)
    images = csr_array((np.ones(len(rows), np.int64), (every, truth)), shape=shape)
    image, label = np.array(predicted, np.int64).reshape(-1, 2).T
    as_class = csr_array((np.ones(len(image), np.int64), (image, label)), shape=shape)

    def score(counts: np.ndarray) -> np.ndarray:
        return classification_scores(counts @ right, counts @ images, counts @ as_class)[metric]

    return ImageResults(tuple(row["file"] for row in rows), metric, score)
