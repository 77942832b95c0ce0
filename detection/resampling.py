"""Average precision and recall of many samples of the images at once, from matches that are computed once.

A resample only changes how often each image counts. The numbers are those of pycocotools on a data set in which the
images are repeated as often, except that copies of detections with equal scores in one image stand together, and not
in the order of the copies of the image.

Precision is highest just after a correct detection, so that only correct detections need one. They are few.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from detection.matching import ClassMatches
from detection.run_matches import RunMatches

# Recalls at which the precision is sampled, from `Params.setDetParams` of pycocotools.
RECALLS = np.linspace(0.0, 1.0, 101)
BLOCK = 512  # resamples in memory at once
WORK = 2**20  # correct detections times resamples that are worth a thread
EXACT = 2**24  # integers up to this one are exact in float32


@dataclass(frozen=True)
class ClassDetections:
    """M detections of one class in all images, sorted by descending score, at T IoU thresholds.

    Attributes:
        image: (M,) index of the image of each detection.
        scores: (M,).
        true_positive, false_positive: (T, M) bool. Both are False for an ignored detection.
        objects: (N,) number of objects in each image, without those that do not count.
    """

    image: np.ndarray
    scores: np.ndarray
    true_positive: np.ndarray
    false_positive: np.ndarray
    objects: np.ndarray

    def at_one_iou(self) -> ClassMatches:
        """The detections that count at the only IoU threshold."""
        counted = self.true_positive[0] | self.false_positive[0]
        return ClassMatches(self.scores[counted], self.true_positive[0, counted], int(self.objects.sum()))

    def counts_by_image(self, threshold: float) -> np.ndarray:
        """(3, N) correct detections and all detections with at least this score, and objects, of each image."""
        selected = self.scores >= threshold
        correct = np.bincount(self.image, self.true_positive[0] & selected, len(self.objects))
        wrong = np.bincount(self.image, self.false_positive[0] & selected, len(self.objects))
        return np.stack([correct, correct + wrong, self.objects])

    def recall_by_image(self) -> np.ndarray:
        """(N,) number of objects found in each image, as the mean over the IoU thresholds."""
        return np.bincount(self.image, self.true_positive.mean(0), len(self.objects))


def class_detections(matches: RunMatches, area: int, ious: slice, limit: int) -> list[ClassDetections]:
    """The detections of each class for one of `AREAS`, for some of `IOUS`, and for the best `limit` of each image."""
    images, classes = len(matches.image_ids), len(matches.classes)
    row_of = np.full(len(matches.label), len(matches.rows))
    row_of[matches.rows] = np.arange(len(matches.rows))
    matched, ignored = (  # (T, C + 1), the last for all detections that are not matched
        np.pad(each[:, area, ious].T, ((0, 0), (0, 1))) for each in (matches.matched, matches.ignored)
    )
    ends = np.searchsorted(matches.label, np.arange(classes + 1))
    result = []
    for index in range(classes):
        detections = np.arange(*ends[index : index + 2])
        detections = detections[matches.rank[detections] < limit]
        detections = detections[np.argsort(-matches.score[detections], kind="stable")]
        is_match, is_ignored = (each[:, row_of[detections]] for each in (matched, ignored))
        is_ignored |= ~is_match & matches.outside[area, detections]
        of_class = matches.object_label == index
        objects = np.bincount(matches.object_image[of_class], matches.objects[area, of_class], images)
        result.append(
            ClassDetections(
                matches.image[detections],
                matches.score[detections],
                is_match & ~is_ignored,
                ~is_match & ~is_ignored,
                objects.astype(np.int64),
            )
        )
    return result


class PrecisionOfResamples:
    """Average precision of one class in resamples of the images.

    The weights of all detections that count are added up to each correct one. Detections that count at every IoU
    threshold, which most do, are added once for all thresholds, the others for each threshold.
    """

    def __init__(self, detections: ClassDetections) -> None:
        from scipy.sparse import csr_array

        true_positive, images = detections.true_positive, detections.image.astype(np.int32)
        counted = true_positive | detections.false_positive
        at_every_iou = counted.all(0)
        stops = np.flatnonzero(true_positive.any(0))
        rows = np.flatnonzero(at_every_iou)
        before = np.searchsorted(stops, rows)  # the next stop at or after each detection
        rows, before = rows[before < len(stops)], before[before < len(stops)]
        shape = len(stops), len(detections.objects)
        self._between_stops = csr_array((np.ones(len(rows), np.float32), (before, images[rows])), shape=shape)
        self._objects = detections.objects.astype(np.int32)
        # Correct detections at all thresholds, and the most detections or objects in one image.
        self.correct = int(np.count_nonzero(true_positive))
        self.most = max(int(np.bincount(images).max(initial=0)), int(detections.objects.max(initial=0)))
        # For each threshold: images of correct detections, their stops, images of other detections that count, and how
        # many of these stand at or before each correct detection.
        self._thresholds = []
        for correct, counts in zip(true_positive, counted, strict=True):
            at = np.flatnonzero(correct)
            others = np.flatnonzero(counts & ~at_every_iou)
            others = others[: np.searchsorted(others, at[-1:], side="right").sum()]
            others_before = np.searchsorted(others, at, side="right") if len(others) else others
            stop = np.searchsorted(stops, at)
            self._thresholds.append((images[at], stop.astype(np.int32), images[others], others_before.astype(np.int32)))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """(N, R) image counts as floats -> (R,) mean precision over IoU thresholds and recalls, NaN without objects."""
        objects = (self._objects.astype(weights.dtype) @ weights).astype(np.int64)
        reached = _recalls_reached(objects)
        offsets = np.arange(len(objects)) * reached.shape[1]
        detected = _accumulate(np.add, self._between_stops.astype(weights.dtype, copy=False) @ weights)
        total = np.zeros(len(objects))
        for images, stops, others, others_before in self._thresholds:
            if not len(images):
                continue
            correct = _accumulate(np.add, weights[images])
            both = detected[stops]
            if len(others):
                first = int(np.searchsorted(others_before, 1))
                both[first:] += _accumulate(np.add, weights[others])[others_before[first:] - 1]
            precision = np.divide(correct, np.maximum(both, 1, out=both), dtype=np.float64)
            _accumulate(np.maximum, precision[::-1])  # the highest precision at this recall or a higher one
            recalls = reached.ravel()[correct.astype(np.int64) + offsets]
            recalls[1:] -= recalls[:-1].copy()
            total += np.einsum("kr,kr->r", precision, recalls)
        mean = total / (len(self._thresholds) * len(RECALLS))
        return np.where(objects > 0, mean, np.nan)


def _recalls_reached(objects: np.ndarray) -> np.ndarray:
    """(R,) numbers of objects -> (R, most objects + 1): how many of `RECALLS` each number of found objects reaches.

    A recall is reached if found / objects, rounded to float64, is not smaller, as in pycocotools.
    """
    width = int(objects.max(initial=0)) + 2
    known = np.maximum(objects, 1)[:, None]
    needed = np.maximum(np.floor(RECALLS * known).astype(np.int64) - 1, 0)
    for _ in range(3):  # from one below to one above the exact product
        needed += needed / known < RECALLS
    index = np.minimum(needed, width - 1) + width * np.arange(len(objects))[:, None]
    return np.bincount(index.ravel(), minlength=width * len(objects)).reshape(-1, width).cumsum(1, dtype=np.float32)


def _accumulate(operation: np.ufunc, rows: np.ndarray) -> np.ndarray:
    """`operation.accumulate` along the first axis, in place, in about 3 sqrt(K) operations on many rows of (K, R).

    numpy's own runs along one column after another, which is slow if columns are not contiguous.
    """
    count, width = rows.shape
    step = max(1, int(count**0.5))
    whole = count // step * step
    blocks = np.lib.stride_tricks.as_strided(
        rows, (count // step, step, width), (rows.strides[0] * step, *rows.strides), writeable=True
    )
    for i in range(1, step):
        operation(blocks[:, i], blocks[:, i - 1], out=blocks[:, i])
    for i in range(1, len(blocks)):
        operation(blocks[i], blocks[i - 1, -1], out=blocks[i])
    for i in range(max(whole, 1), count):
        operation(rows[i], rows[i - 1], out=rows[i])
    return rows


def average_precisions(classes: list[PrecisionOfResamples], counts: np.ndarray) -> np.ndarray:
    """(R, N) image counts -> (R, K) average precision of each class in each resample, NaN without objects.

    Classes are computed in threads, since numpy works on large arrays outside of Python's lock. A thread takes about
    30 bytes for each correct detection of its class in each of `BLOCK` resamples.

    Args:
        classes: K.
        counts: whole numbers.
    """
    most = max((each.most for each in classes), default=0)
    exact = np.float32 if counts.sum(1).max(initial=0) * most < EXACT else np.float64
    result = np.empty((len(counts), len(classes)))
    work = sum(each.correct for each in classes) * len(counts)
    largest_first = sorted(range(len(classes)), key=lambda index: -classes[index].correct)
    with ThreadPoolExecutor(max(1, min(_cores(), len(classes), work // WORK))) as pool:
        for start in range(0, len(counts), BLOCK):
            rows = slice(start, start + BLOCK)
            weights = np.ascontiguousarray(counts[rows].T, exact)
            scores = pool.map(lambda index, weights=weights: classes[index](weights), largest_first)
            for index, of_class in zip(largest_first, scores, strict=True):
                result[rows, index] = of_class
    return result


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
