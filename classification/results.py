"""Results by image that a classification run left in its folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from classification.config import METRIC
from engine.image_results import ImageResults


def of_classification(file: Path) -> ImageResults:
    """Top-1 of an `images.csv`."""
    with file.open(newline="") as table:
        rows = list(csv.DictReader(table))
    correct = np.array([int(row["correct"]) for row in rows], np.float64)

    def score(counts: np.ndarray) -> np.ndarray:
        return counts @ correct / counts.sum(1)

    return ImageResults(tuple(row["file"] for row in rows), METRIC, score)
