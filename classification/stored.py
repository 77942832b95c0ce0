"""Errors and pictures of a finished classification run, from the files in its folder."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classification import classes as imagenet
from classification.config import TrainConfig
from classification.draw import draw_scores
from classification.errors import what_went_wrong
from data.batch import Sample
from data.class_dataset import ClassDataset
from engine.error_files import read_errors
from engine.scored_images import pictures_of, positions, scored_images


def stored_errors(run: Path, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`what_went_wrong` of a run: from its files, or from `images.csv` if it is from an earlier version.

    Empty if that is absent too. Raises ValueError or KeyError if a file is damaged.
    """
    if files := read_errors(run):
        return files
    if not (run / "images.csv").is_file():
        return {}
    rows = _rows(run)
    truth, predicted = ([row[name] for row in rows] for name in ("class", "predicted"))
    confidence = np.array([float(row["probability"]) for row in rows])
    return what_went_wrong(truth, predicted, confidence, np.array([row["correct"] == "1" for row in rows], bool))


def signed_probabilities(run: Path) -> dict[str, float]:
    """By image: the probability of the predicted class, in 0..1, with a minus sign if that class is wrong."""
    return {
        row["file"]: float(row["probability"]) if row["correct"] == "1" else -float(row["probability"])
        for row in _rows(run)
    }


def draw_images(run: Path, record: dict[str, Any], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB of images by their name: beside each, its true and its most probable class.

    Raises BadInput if the data set is absent or damaged, OSError if the run has no results of each image.
    """
    dataset = scored_images(ClassDataset, record, TrainConfig.of(record["config"]))
    rows = {row["file"]: row for row in _rows(run)}

    def draw(key: str, sample: Sample) -> np.ndarray:
        truth, predicted = imagenet.readable([rows[key]["class"], rows[key]["predicted"]])
        return draw_scores(sample.image, [predicted], [float(rows[key]["probability"])], truth)

    return pictures_of(run, dataset, positions([dataset.name(i) for i in range(len(dataset))], keys), draw)


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "images.csv").open(newline="") as table:
        return list(csv.DictReader(table))
