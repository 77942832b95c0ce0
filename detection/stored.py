"""Errors and pictures of a finished detection run, from the files in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.batch import Sample
from data.box_dataset import BoxDataset
from detection.config import MIN_SCORE, TrainConfig
from detection.draw import draw_boxes, side_by_side
from detection.errors import what_went_wrong
from engine.error_files import read_errors
from engine.scored_images import pictures_of, positions, scored_images


def stored_errors(run: Path, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`what_went_wrong` of a run: from its files, or from its detections if it is from an earlier version.

    Empty if these are absent too. Raises ValueError or KeyError if they are damaged.
    """
    if files := read_errors(run):
        return files
    if not (run / "truth.json").is_file():
        return {}
    truth, detections = (json.loads((run / name).read_text()) for name in ("truth.json", "detections.json"))
    threshold = record["metrics"].get("score_threshold")
    limit = TrainConfig.of(record["config"]).max_detections
    return what_went_wrong(truth, detections, limit, float("nan") if threshold is None else threshold)


def draw_images(run: Path, record: dict[str, Any], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB of images by their id: true boxes, and detections with a score of 30 or more.

    Raises BadInput if the data set is absent or damaged, OSError if the run has no detections.
    """
    dataset = scored_images(BoxDataset, record, TrainConfig.of(record["config"]))
    truth, detections = (json.loads((run / name).read_text()) for name in ("truth.json", "detections.json"))
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    index = {category: i for i, category in enumerate(names)}

    def boxes_of(rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes, np.array([index[row["category_id"]] for row in rows], np.int64)

    def draw(key: str, sample: Sample) -> np.ndarray:
        expected = [row for row in truth["annotations"] if str(row["image_id"]) == key and not row["iscrowd"]]
        found = [row for row in detections if str(row["image_id"]) == key and row["score"] >= MIN_SCORE]
        found.sort(key=lambda row: -row["score"])
        classes = list(names.values())
        left = draw_boxes(sample.image, *boxes_of(expected), classes)
        right = draw_boxes(sample.image, *boxes_of(found), classes, np.array([row["score"] for row in found]))
        return side_by_side(left, right, ("ground truth", f"detections, score {100 * MIN_SCORE:.0f} or more"))

    return pictures_of(run, dataset, positions([str(i) for i in dataset.image_ids], keys), draw)
