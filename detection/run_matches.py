"""Matches of all detections of a run, from which the scores of any sample of its images follow.

A run stores them beside its `detections.json`, so that they are computed once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from detection.greedy import match_greedily
from detection.truth import LARGEST_AREA

log = logging.getLogger(__name__)

FILE = "matches.npz"
FORMAT = 1  # part of the stored key: raise it with any change of the matching or of the arrays
# IoU thresholds and ranges of areas in px^2, both ends included, from `Params.setDetParams` of pycocotools.
IOUS = np.linspace(0.5, 0.95, 10)
AREAS = {"": (0, LARGEST_AREA), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, LARGEST_AREA)}
# What numpy raises for a file that is cut, damaged or of another format.
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class RunMatches:
    """M detections, sorted by class, by image and by descending score, and the objects of N images and K classes.

    Attributes:
        image_ids: (N,) ascending.
        classes: K.
        label, image: (M,) index of the class and of the image of each detection.
        score: (M,).
        rank: (M,) position of each detection among those of its image and class, from 0.
        outside: (4, M) bool, whether the area of the box is outside of each of `AREAS`.
        rows: (C,) detections that are matched, in ascending order, for any area and IoU threshold.
        matched, ignored: (C, 4, 10) bool, whether each is matched, and whether its object does not count, for each of
            `AREAS` and `IOUS`.
        object_label, object_image: (P,) pairs of a class and an image that has objects of it.
        objects: (4, P) number of objects of the pair that count.
    """

    image_ids: np.ndarray
    classes: np.ndarray
    label: np.ndarray
    image: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    outside: np.ndarray
    rows: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    object_label: np.ndarray
    object_image: np.ndarray
    objects: np.ndarray


def match_documents(truth: dict[str, Any], detections: list[dict[str, Any]], limit: int) -> RunMatches:
    """Match detections in COCO's result format to a COCO instances document, as `COCOeval.evaluate` of pycocotools.

    As there, objects and detections of unknown categories are left out, and the area of a detection is that of its box.
    Other than there, ids of annotations have no meaning: pycocotools drops a match of an object with the id 0.

    Args:
        truth: content of a COCO instances file, as `coco_document` returns it.
        detections: content of a COCO results file.
        limit: number of detections of an image and class that count, those with the highest scores.

    Raises ValueError if a detection belongs to an image that the truth does not list.
    """
    image_ids = np.unique(np.array([image["id"] for image in truth["images"]], np.int64))
    category_ids = np.unique(np.array([category["id"] for category in truth["categories"]], np.int64))
    found_image, found_label, known = _indices(detections, image_ids, category_ids)
    if (found_image < 0).any():
        unknown = detections[int(np.argmax(found_image < 0))]["image_id"]
        raise ValueError(f"the detections contain the image {unknown}, which the truth does not list")
    boxes = _column(detections, "bbox", 4)[known]
    score = _column(detections, "score")[known]
    group = (found_label * len(image_ids) + found_image)[known]
    order = np.lexsort((-score, group))
    order = order[_rank(group[order]) < limit]
    boxes, score, group = boxes[order], score[order], group[order]

    annotations = truth["annotations"]
    object_image, object_label, known = _indices(annotations, image_ids, category_ids)
    known &= object_image >= 0
    object_group = np.where(known, object_label * len(image_ids) + object_image, -1)
    by_group = np.argsort(object_group, kind="stable")[np.count_nonzero(~known) :]
    object_group = object_group[by_group]
    crowd = np.array([bool(each.get("iscrowd", 0)) for each in annotations], bool)[by_group]
    areas = _column(annotations, "area")[by_group]
    not_counted = crowd | _outside(areas)

    found = match_greedily(
        boxes, group, _column(annotations, "bbox", 4)[by_group], object_group, crowd, not_counted, IOUS
    )
    pairs, pair = np.unique(object_group, return_inverse=True)
    counts = np.stack([np.bincount(pair, ~ignored, len(pairs)) for ignored in not_counted]).astype(np.int64)
    images = max(1, len(image_ids))
    return RunMatches(
        image_ids,
        category_ids,
        group // images,
        group % images,
        score,
        _rank(group),
        _outside(boxes[:, 2] * boxes[:, 3]),
        found.rows,
        found.matched,
        found.ignored,
        pairs // images,
        pairs % images,
        counts,
    )


def stored_matches(folder: Path, digest: str, compute: Callable[[], RunMatches]) -> RunMatches:
    """The matches in the file `FILE` of a folder if they have this digest; otherwise compute them and write the file.

    A folder that cannot be written to is left as it is.
    """
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["digest"]) == digest:
                return RunMatches(**{field.name: _wide(stored[field.name]) for field in fields(RunMatches)})
    except _UNREADABLE:
        pass  # absent or damaged: written again below
    matches = compute()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{FILE}.", delete=False) as temporary:
            try:
                np.savez(temporary, digest=np.array(digest), **_compact(matches))
                os.replace(temporary.name, file)
            except OSError:
                os.unlink(temporary.name)
                raise
    except OSError as error:
        log.debug("%s is not written (%s): the detections are matched again next time", file, error)
    return matches


def matches_digest(truth: bytes, detections: bytes, limit: int) -> str:
    """The key of stored matches: of everything that they are computed from."""
    parts = (FORMAT, limit, *(hashlib.sha256(content).hexdigest() for content in (truth, detections)))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _compact(matches: RunMatches) -> dict[str, Any]:
    """The arrays, integers with as few bytes as their values take."""
    arrays = {field.name: getattr(matches, field.name) for field in fields(matches)}
    return {
        name: array.astype(np.min_scalar_type(array.max())) if array.dtype == np.int64 and array.size else array
        for name, array in arrays.items()
        if name not in ("image_ids", "classes")
    } | {"image_ids": matches.image_ids, "classes": matches.classes}


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int64) if array.dtype.kind == "u" else array


def _indices(
    rows: list[dict[str, Any]], image_ids: np.ndarray, category_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index of the image (-1 if unknown), index of the class, and whether the class is known, of each row."""
    image, image_known = _find(np.array([row["image_id"] for row in rows]), image_ids)
    label, label_known = _find(np.array([row["category_id"] for row in rows]), category_ids)
    return np.where(image_known, image, -1), label, label_known


def _find(values: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(ids):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    index = np.searchsorted(ids, values).clip(max=len(ids) - 1)
    return index, ids[index] == values


def _column(rows: list[dict[str, Any]], name: str, width: int | None = None) -> np.ndarray:
    shape = (len(rows),) if width is None else (len(rows), width)
    return np.array([row[name] for row in rows], np.float64).reshape(shape)


def _rank(group: np.ndarray) -> np.ndarray:
    """Position of each row within its group; (M,) ascending groups."""
    return np.arange(len(group)) - np.searchsorted(group, group)


def _outside(areas: np.ndarray) -> np.ndarray:
    """(4, M) bool, whether each area is outside of each of `AREAS`."""
    low, high = np.array(list(AREAS.values())).T[..., None]
    return (areas < low) | (areas > high)
