"""Match detections to objects at one IoU threshold, and precision, recall and F1 at a score threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.columns import BoxColumns
from detection.greedy import match_greedily
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
    by_group = object_group.argsort(kind="stable")
    boxes = truth.boxes[by_group].copy()
    boxes[:, 2:] -= boxes[:, :2]
    crowd = truth.crowd[by_group]
    ignored = truth.crowd | truth.difficult
    found = match_greedily(
        detections[:, 1:5], group, boxes, object_group[by_group], crowd, ignored[None, by_group], np.array([MATCH_IOU])
    )
    correct, counted = np.zeros(len(group), bool), np.ones(len(group), bool)
    correct[found.rows] = (found.matched & ~found.ignored)[:, 0, 0]
    counted[found.rows] = ~found.ignored[:, 0, 0]

    label = detections[:, 6].astype(np.int64)
    objects_by_class = np.bincount(truth.label[~ignored], minlength=classes)
    matches = []
    for index in range(classes):
        rows_of_class = np.flatnonzero(counted & (label == index))
        rows_of_class = rows_of_class[np.argsort(-detections[rows_of_class, 5], kind="stable")]
        scores = detections[rows_of_class, 5]
        matches.append(ClassMatches(scores, correct[rows_of_class], int(objects_by_class[index])))
    return matches
