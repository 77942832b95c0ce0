"""Results by image that a detection run left in its folder."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.formats.coco_json import locate
from detection.config import METRIC
from engine.image_results import ImageResults


def of_detection(run: Path, record: dict[str, Any]) -> ImageResults:
    """AP of a run's `detections.json`, on the validation split of the data that its record names."""
    detections = json.loads((run / "detections.json").read_text())
    return match_detections(locate(Path(record["dataset"]["root"]), "val")[0], detections)


def match_detections(annotation_file: Path, detections: list[dict[str, Any]]) -> ImageResults:
    """COCO's AP of detections in its result format: matched once, with pycocotools."""
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(annotation_file))
        evaluation = COCOeval(truth, truth.loadRes(detections) if detections else COCO(), "bbox")
        params = evaluation.params
        params.imgIds, params.catIds = sorted(truth.getImgIds()), sorted(truth.getCatIds())
        params.areaRng, params.areaRngLbl, params.maxDets = [[0, 1e10]], ["all"], [100]
        evaluation.evaluate()
    images = len(params.imgIds)
    classes = [
        _Matches.of(evaluation.evalImgs[i * images : (i + 1) * images], params) for i in range(len(params.catIds))
    ]

    def score(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.nanmean([of_class.precision(counts) for of_class in classes], axis=0)

    return ImageResults(tuple(str(i) for i in params.imgIds), METRIC, score)


@dataclass(frozen=True)
class _Matches:
    """What pycocotools matched of one class: M detections in the order of their scores, at T thresholds of IoU.

    Attributes:
        image: (M,) index of each detection's image.
        right, wrong: (T, M) whether it found an object, or none; neither where it is ignored.
        objects: (N,) of each image, without crowds.
        recalls: that precision is read off at.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray
    recalls: np.ndarray

    @classmethod
    def of(cls, images: Sequence[dict[str, Any] | None], params: Any) -> _Matches:
        thresholds = len(params.iouThrs)
        objects = np.zeros(len(images), np.int64)
        scores, places = [np.zeros(0)], [np.zeros(0, np.int64)]
        matched, ignored = [np.zeros((thresholds, 0))], [np.zeros((thresholds, 0), bool)]
        for i, found in enumerate(images):
            if found is None:  # neither objects nor detections
                continue
            objects[i] = np.count_nonzero(np.asarray(found["gtIgnore"]) == 0)
            scores.append(np.asarray(found["dtScores"], np.float64))
            places.append(np.full(len(found["dtScores"]), i))
            matched.append(found["dtMatches"])
            ignored.append(found["dtIgnore"].astype(bool))
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        hit, skip = np.concatenate(matched, axis=1)[:, order] > 0, np.concatenate(ignored, axis=1)[:, order]
        return cls(np.concatenate(places)[order], hit & ~skip, ~hit & ~skip, objects, np.asarray(params.recThrs))

    def precision(self, counts: np.ndarray) -> np.ndarray:
        """Mean over thresholds and recalls for each resample: counts (R, N) -> (R,), NaN where there are no objects."""
        objects = counts @ self.objects
        result = np.full(len(counts), np.nan)
        for r in np.flatnonzero(objects):
            weights = counts[r, self.image]
            used = weights > 0
            right = np.cumsum(self.right[:, used] * weights[used], axis=1)
            wrong = np.cumsum(self.wrong[:, used] * weights[used], axis=1)
            with np.errstate(invalid="ignore"):
                precision = np.nan_to_num(right / (right + wrong))
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
            at = [np.searchsorted(row, self.recalls, side="left") for row in right / objects[r]]
            result[r] = np.take_along_axis(envelope, np.stack(at), axis=1).mean()
        return result
