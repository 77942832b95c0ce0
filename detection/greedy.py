"""COCO's greedy matching of detections and objects, for all images, IoU thresholds and ranges of areas at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PAIRS = 2**17  # pairs of a detection and an object in memory at once; 300 MB if all overlap, at 40 thresholds and areas


@dataclass(frozen=True)
class Matched:
    """The detections that have an object of their class with a sufficient IoU. All others are unmatched.

    Attributes:
        rows: (C,) indices of these detections.
        matched: (C, A, T) bool, whether each is matched in A ranges of areas at T IoU thresholds.
        ignored: (C, A, T) bool, whether its object does not count.
    """

    rows: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray


def match_greedily(
    boxes: np.ndarray,
    group: np.ndarray,
    object_boxes: np.ndarray,
    object_group: np.ndarray,
    crowd: np.ndarray,
    ignored: np.ndarray,
    thresholds: np.ndarray,
) -> Matched:
    """Match the detections of each group to its objects, best score first, as `COCOeval.evaluateImg` of pycocotools.

    A detection takes the object with the highest IoU that is free, the last of equals. Objects that do not count are
    taken only if no other one is free. Crowds can be taken several times.

    Args:
        boxes: (M, 4) x, y, width, height of the detections in px, sorted by group and by descending score.
        group: (M,) group of each detection, such as a number for its image and class.
        object_boxes: (G, 4) the same of the objects, sorted by group.
        object_group: (G,) group of each object.
        crowd: (G,) bool.
        ignored: (A, G) bool, objects that do not count in each range of areas. Crowds are among them.
        thresholds: (T,) IoU thresholds.
    """
    thresholds = np.minimum(thresholds, 1 - 1e-10)  # as in pycocotools
    first, last = (np.searchsorted(object_group, group, side=side) for side in ("left", "right"))
    has_objects = np.flatnonzero(last > first)
    pairs_before = np.concatenate([[0], np.cumsum((last - first)[has_objects])])
    pieces = [Matched(np.zeros(0, np.int64), *(np.zeros((0, len(ignored), len(thresholds)), bool) for _ in range(2)))]
    start = 0
    while start < len(has_objects):
        end = max(start + 1, int(np.searchsorted(pairs_before, pairs_before[start] + PAIRS, side="right")) - 1)
        # A group is matched as a whole, whatever its size.
        end = int(np.searchsorted(group[has_objects], group[has_objects[end - 1]], side="right"))
        rows = has_objects[start:end]
        row, item = _expand(rows, first[rows], last[rows])
        iou = box_iou(boxes[row], object_boxes[item], crowd[item])
        near = iou >= thresholds.min()
        row, item, iou = row[near], item[near], iou[near]
        order = np.lexsort((item, iou, row))  # the last of equal IoUs is taken
        pieces.append(_match(row[order], item[order], iou[order], group, crowd, ignored, thresholds))
        start = end
    return Matched(
        np.concatenate([piece.rows for piece in pieces]),
        np.concatenate([piece.matched for piece in pieces]),
        np.concatenate([piece.ignored for piece in pieces]),
    )


def box_iou(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of (P, 4) boxes and (P, 4) objects, x, y, width, height; of a crowd, the covered share of the box.

    The operations and their order are those of `bbIou` in pycocotools' maskApi.c, so that the results are equal.
    """
    x, y, width, height = boxes.T
    object_x, object_y, object_width, object_height = objects.T
    across = np.minimum(width + x, object_width + object_x) - np.maximum(x, object_x)
    down = np.minimum(height + y, object_height + object_y) - np.maximum(y, object_y)
    shared = across * down
    area = width * height
    union = np.where(crowd, area, area + object_width * object_height - shared)
    overlap = (across > 0) & (down > 0)
    return np.divide(shared, union, out=np.zeros(len(shared)), where=overlap)


def _expand(rows: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row with each of its objects first..last: rows and objects of the pairs."""
    sizes = last - first
    before = np.cumsum(sizes) - sizes
    return np.repeat(rows, sizes), np.arange(sizes.sum()) - np.repeat(before - first, sizes)


def _match(
    row: np.ndarray,
    item: np.ndarray,
    iou: np.ndarray,
    group: np.ndarray,
    crowd: np.ndarray,
    ignored: np.ndarray,
    thresholds: np.ndarray,
) -> Matched:
    """Match from pairs of a detection and an object, sorted by detection and by preference; the last is preferred.

    Detections of different groups are matched at once: the best ones of all groups first, then the second ones.
    """
    rows, starts, sizes = np.unique(row, return_index=True, return_counts=True)
    groups, group_starts = np.unique(group[rows], return_index=True)
    rank = np.arange(len(rows)) - group_starts[np.searchsorted(groups, group[rows])]
    shape = len(rows), len(ignored), len(thresholds)
    matched, is_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    items, item = np.unique(item, return_inverse=True)
    crowd, counts = crowd[items], ~ignored[:, items].T  # (G,), (G, A)
    free = np.ones((len(items), *shape[1:]), bool)
    by_rank = np.argsort(rank, kind="stable")
    for detections in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1]) if len(rows) else []:
        _, pair = _expand(detections, starts[detections], starts[detections] + sizes[detections])
        candidates = item[pair]
        possible = (iou[pair, None, None] >= thresholds) & (free[candidates] | crowd[candidates, None, None])
        # Objects that count are preferred to all others.
        preference = np.arange(1, len(pair) + 1)[:, None] + counts[candidates] * len(pair)
        ends = np.cumsum(sizes[detections])
        best = np.maximum.reduceat(np.where(possible, preference[..., None], 0), ends - sizes[detections], axis=0)
        taken = candidates[(best - 1) % len(pair)]
        found = best > 0
        matched[detections] = found
        is_ignored[detections] = found & (best <= len(pair))
        _, area, threshold = np.nonzero(found)
        free[taken[found], area, threshold] = False
    return Matched(rows, matched, is_ignored)


def match_boxes(ious: np.ndarray, crowd: np.ndarray, ignored: np.ndarray, threshold: float) -> np.ndarray:
    """Match detections in one image to objects as `match_greedily` does, and say which object each one is matched to.

    Args:
        ious: (D, G) IoUs of detections and objects; 0 where the classes differ.
        crowd: (G,) bool. Crowds can be matched several times.
        ignored: (G,) bool. Objects that are not counted; they are matched only by detections without another match.
        threshold: IoU from which a detection matches an object.

    Returns:
        (D,) index of the object that each detection is matched to; -1 for none.
    """
    matched = np.full(len(ious), -1)
    free = np.ones(ious.shape[1], bool)
    for row in np.flatnonzero((ious >= threshold).any(1)):
        for group in (~ignored, ignored):
            candidates = np.flatnonzero(group & (free | crowd) & (ious[row] >= threshold))
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
