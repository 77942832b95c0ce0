"""Detection error types: how much AP50 each kind of error costs, in the manner of TIDE (arXiv:2008.08115).

Each wrong detection has one type, by its IoU with true boxes. In this order:

- `localisation`: IoU of 0.1 to 0.5 with a box of its class.
- `class`: IoU of 0.5 or more with a box of another class.
- `duplicate`: IoU of 0.5 or more with a box of its class that a better detection is matched to.
- `background`: IoU of 0.1 or less with every box.
- `both`: all others. Class and location are wrong.

`missed` are the true boxes that no detection is matched to, and that neither a localisation nor a class error would
find if it were corrected. The cost of a type is dAP: AP50 with all errors of the type corrected, minus AP50. To correct
a localisation or class error means that it becomes a correct detection with the same score, if it is the best one for a
box that is not found, else it is deleted. Errors of the other types are deleted, and missed boxes are no longer
required. Since each type is corrected alone, the costs do not add up to the distance from AP50 to 1.

The numbers equal those of tidecv 1.0.1, the authors' implementation, with these exceptions:

- Means are over the classes that occur in the truth, as in COCO. tidecv includes classes that are only detected, with
  AP 0.
- The best `max_detections` of each class in an image count, as in COCO. tidecv counts the best 100 over all classes.
- Detections of equal score stay in the order of their images, as in COCO. tidecv moves errors before correct
  detections.
- Of true boxes with equal IoU, a detection is matched to the last, as in COCO, and an IoU of exactly 0.5 with a crowd
  is sufficient. tidecv takes the first, and requires more than 0.5.
- Pascal VOC's difficult objects are neither required nor counted. tidecv does not know them.
- Detections matched to crowds or difficult objects have no error type and find no object. tidecv counts them as errors.

AP50 here samples the precision at the recalls k / 100, as tidecv does. COCO's 0.01 * k is rounded up for some k, so its
AP50 can be lower by a fraction of 1/101 for classes whose recall is exactly such a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask

from detection.greedy import is_correct, is_counted, match_boxes
from detection.matching import MATCH_IOU
from detection.truth import LARGEST_AREA

TYPES = ("class", "localisation", "both", "duplicate", "background", "missed")
CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(TYPES))
NO_ERROR = -1
BACKGROUND_IOU = 0.1  # tidecv's `background_threshold`
RECALLS = np.arange(101) / 100


@dataclass(frozen=True)
class Objects:
    """G true boxes, sorted by image.

    Attributes:
        image: (G,) index of the image.
        label: (G,) class index.
        boxes: (G, 4) x, y, width, height in px.
        crowd: (G,) bool.
        counted: (G,) bool. False for crowds and difficult objects.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    counted: np.ndarray

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Objects:
        """The objects of a COCO document. Images and classes are numbered in the order of their ids."""
        rows = document["annotations"]
        image = _index(document["images"], [row["image_id"] for row in rows])
        label = _index(document["categories"], [row["category_id"] for row in rows])
        crowd = np.array([row.get("iscrowd", 0) for row in rows], bool)
        area = np.array([row["area"] for row in rows], np.float64)
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        order = image.argsort(kind="stable")
        counted = ~crowd & (area <= LARGEST_AREA)
        return cls(image[order], label[order], boxes[order], crowd[order], counted[order])


@dataclass(frozen=True)
class Found:
    """D detections, sorted by image and descending score.

    Attributes:
        image: (D,) index of the image.
        label: (D,) class index.
        boxes: (D, 4) x, y, width, height in px.
        scores: (D,) in 0..1.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, document: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], limit: int) -> Found:
        """Detections in COCO's result format: the `limit` best of each class in an image."""
        image = _index(document["images"], [row["image_id"] for row in detections])
        label = _index(document["categories"], [row["category_id"] for row in detections])
        scores = np.array([row["score"] for row in detections], np.float64)
        boxes = np.array([row["bbox"] for row in detections], np.float64).reshape(-1, 4)
        group = image * max(1, len(document["categories"])) + label
        by_group = np.lexsort((-scores, group))
        starts = np.searchsorted(group[by_group], group[by_group], side="left")
        within = np.zeros(len(group), bool)
        within[by_group] = np.arange(len(group)) - starts < limit
        order = np.lexsort((-scores, image))
        order = order[within[order]]
        return cls(image[order], label[order], boxes[order], scores[order])

    def above(self, score: float) -> Found:
        """The detections with at least this score."""
        kept = self.scores >= score
        return Found(self.image[kept], self.label[kept], self.boxes[kept], self.scores[kept])


@dataclass(frozen=True)
class Outcome:
    """What became of each detection and each object.

    Attributes:
        correct: (D,) bool, matched to an object that counts.
        counted: (D,) bool. False for matches of crowds and difficult objects.
        types: (D,) index in `TYPES`, `NO_ERROR` for detections that are correct or not counted.
        target: (D,) index of the object that a detection is matched to, or that a localisation or class error would
            find; -1 for none.
        best: (D,) bool, the localisation and class errors that would find an object that is not found.
        found: (G,) bool, matched.
        missed: (G,) bool, see the module's text.
    """

    correct: np.ndarray
    counted: np.ndarray
    types: np.ndarray
    target: np.ndarray
    best: np.ndarray
    found: np.ndarray
    missed: np.ndarray

    @classmethod
    def of(cls, objects: Objects, found: Found) -> Outcome:
        """Match the detections of all images, and find the type of each error."""
        count = len(found.image)
        self = cls(
            correct=np.zeros(count, bool),
            counted=np.ones(count, bool),
            types=np.full(count, BACKGROUND),
            target=np.full(count, -1),
            best=np.zeros(count, bool),
            found=np.zeros(len(objects.image), bool),
            missed=np.zeros(len(objects.image), bool),
        )
        for image in np.intersect1d(found.image, objects.image):
            rows = slice(*np.searchsorted(found.image, (image, image + 1)))
            of_image = slice(*np.searchsorted(objects.image, (image, image + 1)))
            self._fill(objects, found, rows, of_image)
        usable = np.zeros(len(objects.image), bool)
        usable[self.target[self.best]] = True
        self.missed[:] = objects.counted & ~self.found & ~usable
        return self

    def _fill(self, objects: Objects, found: Found, rows: slice, of_image: slice) -> None:
        """Fill the rows of one image."""
        crowd, counts = objects.crowd[of_image], objects.counted[of_image]
        ious = np.asarray(mask.iou(found.boxes[rows], objects.boxes[of_image], crowd.astype(np.uint8).tolist()))
        same = found.label[rows, None] == objects.label[of_image]
        matched = match_boxes(ious * same, crowd, ~counts, MATCH_IOU)
        correct = is_correct(matched, ~counts)
        self.correct[rows], self.counted[rows] = correct, is_counted(matched, ~counts)
        indices = np.arange(of_image.start, of_image.stop)
        if counts.any():
            ious, same, indices = ious[:, counts], same[:, counts], indices[counts]
            is_found = np.isin(indices, of_image.start + matched[correct])
            self.found[indices] = is_found
            self.types[rows], target = _types(ious, same, is_found)
            # The best error is the first: detections are sorted by score.
            fixable = np.flatnonzero(~correct & self.counted[rows] & (target >= 0) & ~is_found[target])
            _, first = np.unique(target[fixable], return_index=True)
            self.best[rows.start + fixable[first]] = True
            self.target[rows] = np.where(target >= 0, indices[target], -1)
        self.types[rows] = np.where(correct | ~self.counted[rows], NO_ERROR, self.types[rows])
        self.target[rows] = np.where(self.counted[rows], self.target[rows], -1)
        self.target[rows] = np.where(correct, of_image.start + matched, self.target[rows])


def _types(ious: np.ndarray, same: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The error type of each detection of an image if it is wrong, and the index of its object; -1 for none.

    Args:
        ious: (D, G) with the objects that count.
        same: (D, G) bool, equal classes.
        found: (G,) bool, matched objects.
    """
    own, other = ious * same, ious * ~same
    location = (own.max(1) >= BACKGROUND_IOU) & (own.max(1) <= MATCH_IOU)
    wrong_class = other.max(1) >= MATCH_IOU
    duplicate = (own * found).max(1) >= MATCH_IOU
    background = ious.max(1) <= BACKGROUND_IOU
    types = np.select(
        [location, wrong_class, duplicate, background], [LOCALISATION, CLASS, DUPLICATE, BACKGROUND], BOTH
    )
    target = np.select([location, wrong_class], [own.argmax(1), other.argmax(1)], -1)
    return types, target


def error_costs(objects: Objects, found: Found, outcome: Outcome, classes: int) -> dict[str, float]:
    """`AP50` and the dAP of each type, of `false_positives` and of `false_negatives`; fractions in 0..1.

    To correct all false positives means that all wrong detections are ranked after all correct ones. To correct all
    false negatives means that only the objects that are found are required. These two can be negative by rounding of
    recalls; the other costs are at least 0. NaN without objects.
    """
    counts = np.bincount(objects.label[objects.counted], minlength=classes)
    ranking = np.argsort(-found.scores, kind="stable")

    def mean_ap(kept: np.ndarray, labels: np.ndarray, correct: np.ndarray, required: np.ndarray) -> float:
        order = ranking[kept[ranking]]
        values = average_precisions(labels[order], correct[order], required)
        occurs = (counts > 0) & ((required > 0) | (np.bincount(labels[kept], minlength=classes) > 0))
        return float(values[occurs].mean()) if occurs.any() else float("nan")

    base = mean_ap(outcome.counted, found.label, outcome.correct, counts)
    costs = {"AP50": base}
    for index, name in enumerate(TYPES):
        wrong = outcome.types == index
        kept = outcome.counted & ~wrong | outcome.best & wrong
        labels = found.label.copy()
        labels[outcome.best & wrong] = objects.label[outcome.target[outcome.best & wrong]]
        missed = np.bincount(objects.label[outcome.missed], minlength=classes) if index == MISSED else 0
        fixed = mean_ap(kept, labels, outcome.correct | outcome.best & wrong, counts - missed)
        costs[name] = max(fixed - base, 0.0)  # lower only by rounding of recalls, as tidecv notes
    only_correct = mean_ap(outcome.correct, found.label, outcome.correct, counts)
    is_found = np.bincount(objects.label[outcome.found], minlength=classes)
    only_found = mean_ap(outcome.counted, found.label, outcome.correct, is_found)
    return costs | {"false_positives": only_correct - base, "false_negatives": only_found - base}


def average_precisions(labels: np.ndarray, correct: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(K,) AP of each class at one IoU threshold, in 0..1; 0 for classes without objects.

    Args:
        labels, correct: (M,) class index of each detection, by descending score, and whether it is correct.
        objects: (K,) number of objects.
    """
    by_class = labels.argsort(kind="stable")
    ends = np.searchsorted(labels[by_class], np.arange(len(objects) + 1))
    values = np.zeros(len(objects))
    for index in np.flatnonzero(objects):
        right = np.cumsum(correct[by_class[ends[index] : ends[index + 1]]])
        precision = right / np.arange(1, len(right) + 1)
        envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        values[index] = envelope[np.searchsorted(right / objects[index], RECALLS, side="left")].mean()
    return values


def error_counts(objects: Objects, found: Found, outcome: Outcome, classes: int) -> np.ndarray:
    """(K, 6) number of errors of each class and type. Missed objects count for their class, others for the detected."""
    counts = np.zeros((classes, len(TYPES)), np.int64)
    wrong = outcome.counted & ~outcome.correct
    np.add.at(counts, (found.label[wrong], outcome.types[wrong]), 1)
    counts[:, MISSED] = np.bincount(objects.label[outcome.missed], minlength=classes)
    return counts


def _index(entries: Sequence[Mapping[str, Any]], ids: Sequence[int]) -> np.ndarray:
    """The position of each of `ids` among the sorted ids of the entries."""
    return np.searchsorted(np.sort(np.array([entry["id"] for entry in entries], np.int64)), np.array(ids, np.int64))
