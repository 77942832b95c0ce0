"""Scored boxes and detections in COCO's formats, for pycocotools and for the files of a run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from data.columns import BoxColumns

# px^2, the end of COCO's largest size range. Objects with a larger area are matched, but neither required nor counted.
LARGEST_AREA = 1e10
NOT_COUNTED = 2 * LARGEST_AREA
BEYOND = 1e6  # px, outside of all images, whose sizes may be unknown, and of detections, which may leave them


def known_classes(truth: BoxColumns) -> np.ndarray | None:
    """(n, K) bool, whether an image has boxes of a class or is known to have no object of it; None if all are known."""
    return None if truth.complete is None else truth.complete | truth.labelled()


def with_unlabelled_regions(truth: BoxColumns) -> BoxColumns:
    """The truth with a crowd region around the whole image for each class of which some objects may have no box.

    Added only if the image has a box of the class. Callers leave out detections where `known_classes` is False.
    `complete` is None in the result.
    """
    if truth.complete is None:
        return truth
    image, label = np.nonzero(truth.labelled() & ~truth.complete)
    no = np.zeros(len(image), bool)
    added = {
        "image": image,
        "label": label,
        "boxes": np.tile([-BEYOND, -BEYOND, BEYOND, BEYOND], (len(image), 1)),
        "crowd": ~no,
        "difficult": no,
        "areas": np.full(len(image), np.nan),
    }
    columns: dict[str, Any] = {name: np.concatenate([getattr(truth, name), rows]) for name, rows in added.items()}
    return replace(truth, **columns, complete=None)


def coco_document(truth: BoxColumns, image_ids: np.ndarray, category_ids: list[int]) -> dict[str, Any]:
    """COCO's instances format.

    An object without an area has that of its box. Pascal VOC's difficult objects have an area beyond COCO's size
    ranges: pycocotools then neither requires nor counts them.

    Args:
        truth: images and boxes.
        image_ids: (n,) id of each image.
        category_ids: K ids of the classes.
    """
    boxes = truth.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    areas = np.where(np.isnan(truth.areas), boxes[:, 2] * boxes[:, 3], truth.areas)
    areas = np.where(truth.difficult & ~truth.crowd, NOT_COUNTED, areas)
    labels = np.asarray(category_ids, np.int64)[truth.label]
    columns = (image_ids[truth.image], labels, boxes, areas, truth.crowd.astype(int))
    return {
        "images": [
            {"id": image_id, "file_name": name, "height": height, "width": width}
            for image_id, name, (height, width) in zip(
                image_ids.tolist(), truth.names, truth.sizes.tolist(), strict=True
            )
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
            for i, (image, category, box, area, crowd) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), start=1
            )
        ],
        "categories": [{"id": i, "name": name} for i, name in zip(category_ids, truth.classes, strict=True)],
    }


def coco_results(image_ids: np.ndarray, boxes: np.ndarray, scores: np.ndarray, categories: np.ndarray) -> list[dict]:
    """COCO's result format of (N,) image ids, (N, 4) x, y, width, height in original px, (N,) scores, category ids."""
    return [
        {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score}
        for image, box, score, category in zip(
            image_ids.ravel().tolist(),
            boxes.tolist(),
            scores.ravel().tolist(),
            categories.ravel().tolist(),
            strict=True,
        )
    ]
