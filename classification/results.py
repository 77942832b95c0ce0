"""Read the results of each image that a classification run saved."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from classification.config import METRIC
from engine.image_results import ImageResults


def classification_results(file: Path) -> ImageResults:
    """Read the results in an `images.csv`. The score of a resample is its top-1 accuracy."""
    with file.open(newline="") as table:
        rows = list(csv.DictReader(table))
    correct = np.array([int(row["correct"]) for row in rows], np.float64)

    def score(counts: np.ndarray) -> np.ndarray:
        return counts @ correct / counts.sum(1)

    return ImageResults(tuple(row["file"] for row in rows), METRIC, score)
