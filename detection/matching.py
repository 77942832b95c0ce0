"""Match detections to objects at one IoU threshold, and precision, recall and F1 at a score threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask

from data.columns import BoxColumns
from engine.class_scores import class_scores

MATCH_IOU = 0.5  # for precision, recall and F1, as for AP50


@dataclass(frozen=True)
class ClassMatches:
    """Detections of one class in all images, without those that are not counted, such as matches of crowds.

    Attributes:
        scores: (M,) descending.
        correct: (M,) bool, whether each detection is matched to an object.
        objects: number of objects of the class.
    """

    scores: np.ndarray
    correct: np.ndarray
    objects: int

    def at(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of correct and of all detections with at least these scores: (T,) thresholds -> two (T,) arrays."""
        counts = np.searchsorted(-self.scores, -thresholds, side="right")
        return np.concatenate([[0], np.cumsum(self.correct)])[counts], counts


@dataclass(frozen=True)
class OperatingPoint:
    """The score threshold with the highest mean F1 over the classes that have objects, and the scores there.

    Attributes:
        threshold: in 0..1; NaN if no detection is correct. It is the same for all classes.
        precision, recall, f1: (K,) in 0..1; NaN for classes without objects.
    """

    threshold: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def operating_point(classes: list[ClassMatches]) -> OperatingPoint:
    """The operating point of a detector, from the matches of each class."""
    # F1 rises only where a threshold includes another correct detection.
    candidates = np.unique(np.concatenate([np.zeros(0), *(each.scores[each.correct] for each in classes)]))[::-1]
    total = np.zeros(len(candidates))
    for each in classes:
        if each.objects:
            correct, detected = each.at(candidates)
            total += 2 * correct / (detected + each.objects)
    threshold = float(candidates[total.argmax()]) if len(candidates) else float("nan")
    at_threshold = [each.at(np.array([threshold]))[i][0] for i in (0, 1) for each in classes] if len(candidates) else []
    counts = np.array(at_threshold or [0] * 2 * len(classes)).reshape(2, len(classes))
    objects = np.array([each.objects for each in classes])
    scores = class_scores(counts[0], objects, counts[1])
    precision, recall, f1 = (np.where(objects > 0, scores[name], np.nan) for name in ("precision", "recall", "F1"))
    return OperatingPoint(threshold, precision, recall, f1)


def match_classes(truth: BoxColumns, detections: np.ndarray, limit: int) -> list[ClassMatches]:
    """Match detections to objects at an IoU of `MATCH_IOU`, as pycocotools does, for each class.

    Args:
        truth: images and boxes. Crowds and difficult objects are not counted, and neither are their matches.
        detections: (N, 7): index of the image, x, y, width, height in original px, score, class index.
        limit: largest number of detections of a class in an image. Further ones, of lower score, are left out.
    """
    classes = len(truth.classes)
    order = np.lexsort((-detections[:, 5], detections[:, 0] * classes + detections[:, 6]))
    detections = detections[order]
    group = (detections[:, 0] * classes + detections[:, 6]).astype(np.int64)
    starts = np.searchsorted(group, group, side="left")
    within = np.arange(len(group)) - starts < limit
    detections, group = detections[within], group[within]

    object_group = truth.image * classes + truth.label
    ignored = truth.crowd | truth.difficult
    by_group = object_group.argsort(kind="stable")
    boxes = truth.boxes[by_group].copy()
    boxes[:, 2:] -= boxes[:, :2]
    ordered = object_group[by_group]

    correct, counted = np.zeros(len(group), bool), np.ones(len(group), bool)
    for value in np.intersect1d(group, ordered):
        rows = slice(*np.searchsorted(group, (value, value + 1)))
        objects = slice(*np.searchsorted(ordered, (value, value + 1)))
        crowd, not_counted = truth.crowd[by_group[objects]], ignored[by_group[objects]]
        ious = mask.iou(detections[rows, 1:5], boxes[objects], crowd.astype(np.uint8).tolist())
        matched = match_boxes(np.asarray(ious), crowd, not_counted)
        correct[rows], counted[rows] = is_correct(matched, not_counted), is_counted(matched, not_counted)

    label = detections[:, 6].astype(np.int64)
    objects_by_class = np.bincount(truth.label[~ignored], minlength=classes)
    found = []
    for index in range(classes):
        rows_of_class = np.flatnonzero(counted & (label == index))
        rows_of_class = rows_of_class[np.argsort(-detections[rows_of_class, 5], kind="stable")]
        scores = detections[rows_of_class, 5]
        found.append(ClassMatches(scores, correct[rows_of_class], int(objects_by_class[index])))
    return found


def match_boxes(ious: np.ndarray, crowd: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Match detections in one image to objects, best score first, as in pycocotools' `evaluateImg`.

    Args:
        ious: (D, G) IoUs of detections and objects; 0 where the classes differ.
        crowd: (G,) bool. Crowds can be matched several times.
        ignored: (G,) bool. Objects that are not counted; they are matched only by detections without another match.

    Returns:
        (D,) index of the object that each detection is matched to; -1 for none.
    """
    matched = np.full(len(ious), -1)
    free = np.ones(ious.shape[1], bool)
    for row in np.flatnonzero((ious >= MATCH_IOU).any(1)):
        for group in (~ignored, ignored):
            candidates = np.flatnonzero(group & (free | crowd) & (ious[row] >= MATCH_IOU))
            if len(candidates):
                best = candidates[::-1][ious[row, candidates[::-1]].argmax()]  # pycocotools takes the last of equals
                free[best] = False
                matched[row] = best
                break
    return matched


def is_correct(matched: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """(D,) bool, whether each detection is matched to an object that counts."""
    return (matched >= 0) & ~_of_matched(matched, ignored)


def is_counted(matched: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """(D,) bool, whether each detection counts: all but the matches of ignored objects."""
    return (matched < 0) | ~_of_matched(matched, ignored)


def _of_matched(matched: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each detection's object; of any object where it has none. False where there are no objects."""
    return values[matched] if len(values) else np.zeros(len(matched), bool)
