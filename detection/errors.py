"""`errors.json` and `calibration.json` of a detection run: what its detections get wrong, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask

from detection.error_types import (
    BACKGROUND_IOU,
    TYPES,
    Found,
    Objects,
    Outcome,
    average_precisions,
    error_costs,
    error_counts,
)
from detection.matching import MATCH_IOU
from engine.calibration import Reliability

# Boxes crowd each other from an IoU of 0.1 on, as in the crowded subset of Repulsion Loss (arXiv:1711.07752), here
# whatever their classes. Adaptive NMS (arXiv:1904.03629) also measures density by the IoU of true boxes.
CROWDING_IOU = 0.1
CROWDING = {"0": (0, 0), "1": (1, 1), "2 or more": (2, None)}  # numbers of overlapping boxes


def what_went_wrong(
    document: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    max_detections: int = 100,
    score_threshold: float = float("nan"),
) -> dict[str, dict[str, Any]]:
    """The content of a run's result files on errors, by file name.

    `errors.json` has `AP50`, the costs `dAP` of each error type, and the `counts` of errors over all detections;
    `counts` and `per_class` of the detections with at least `score_threshold` in `at_threshold`, None where that is
    NaN; and `crowding`, see `by_crowding`.

    `calibration.json` is `Reliability.document` of the scores. A detection is correct if it is matched to an object at
    an IoU of 0.5: the D-ECE of arXiv:2004.13546, without the location of the boxes.

    Args:
        document: content of a COCO instances file, such as a run's `truth.json`.
        detections: content of a COCO results file, such as a run's `detections.json`.
        max_detections: number of detections of an image and class that count.
        score_threshold: threshold of the precision and recall of the run, in 0..1.

    Raises KeyError if a record lacks a field of COCO's format.
    """
    objects, found = Objects.of(document), Found.of(document, detections, max_detections)
    entries = sorted(document["categories"], key=lambda entry: entry["id"])
    names = [str(entry["name"]) for entry in entries]
    outcome = Outcome.of(objects, found)
    costs = error_costs(objects, found, outcome, len(names))
    errors = {
        "iou": MATCH_IOU,
        "background_iou": BACKGROUND_IOU,
        "AP50": costs.pop("AP50"),
        "dAP": costs,
        "counts": _named(error_counts(objects, found, outcome, len(names)).sum(0)),
        "at_threshold": None,
        "crowding": by_crowding(objects, found, outcome, len(names)),
    }
    if score_threshold == score_threshold:
        errors["at_threshold"] = _at_threshold(objects, found.above(score_threshold), names) | {
            "score_threshold": score_threshold
        }
    counted = outcome.counted
    reliability = Reliability.of(found.scores[counted], outcome.correct[counted])
    return {"errors.json": errors, "calibration.json": reliability.document()}


def by_crowding(objects: Objects, found: Found, outcome: Outcome, classes: int) -> dict[str, Any]:
    """Recall and AP50 of objects by the number of true boxes that overlap them with an IoU of at least `CROWDING_IOU`.

    For each key of `CROWDING`: number of `objects`, `recall50`, the share that any detection is matched to at an IoU of
    0.5, and `AP50` without the objects of the other groups and their matches. Every wrong detection counts in each
    group, because it belongs to none: compare backbones in a group, not groups. Fractions in 0..1, NaN without objects.
    """
    neighbours = overlapping(objects)
    groups = {}
    for name, (low, high) in CROWDING.items():
        within = objects.counted & (neighbours >= low) & ((neighbours <= high) if high is not None else True)
        counts = np.bincount(objects.label[within], minlength=classes)
        in_group = np.zeros(len(found.scores), bool)
        in_group[outcome.correct] = within[outcome.target[outcome.correct]]
        kept = outcome.counted & (in_group | ~outcome.correct)
        order = np.argsort(-found.scores[kept], kind="stable")
        values = average_precisions(found.label[kept][order], in_group[kept][order], counts)
        total = int(within.sum())
        groups[name] = {
            "objects": total,
            "recall50": float(outcome.found[within].sum() / total) if total else float("nan"),
            "AP50": float(values[counts > 0].mean()) if total else float("nan"),
        }
    return {"iou": CROWDING_IOU, "overlapping_boxes": groups}


def overlapping(objects: Objects) -> np.ndarray:
    """(G,) number of other true boxes in the image, of any class, with an IoU of at least `CROWDING_IOU`; no crowds."""
    neighbours = np.zeros(len(objects.image), np.int64)
    single = np.flatnonzero(~objects.crowd)
    images = objects.image[single]
    for image in np.unique(images):
        rows = single[slice(*np.searchsorted(images, (image, image + 1)))]
        boxes = objects.boxes[rows]
        near = np.asarray(mask.iou(boxes, boxes, [0] * len(boxes))) >= CROWDING_IOU
        np.fill_diagonal(near, False)
        neighbours[rows] = near.sum(1)
    return neighbours


def _at_threshold(objects: Objects, found: Found, names: Sequence[str]) -> dict[str, Any]:
    outcome = Outcome.of(objects, found)
    counts = error_counts(objects, found, outcome, len(names))
    correct = np.bincount(found.label[outcome.correct], minlength=len(names))
    required = np.bincount(objects.label[objects.counted], minlength=len(names))
    return {
        "counts": _named(counts.sum(0)),
        "per_class": {
            name: {"objects": int(required[i]), "correct": int(correct[i])} | _named(counts[i])
            for i, name in enumerate(names)
        },
    }


def _named(counts: np.ndarray) -> dict[str, int]:
    return dict(zip(TYPES, counts.tolist(), strict=True))
