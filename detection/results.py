"""Results per image of a finished detection run, read from its folder."""

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

from data.box_dataset import BoxDataset
from data.columns import BoxColumns
from data.open import read_scored
from data.options import BoxOptions
from detection.config import METRIC, TrainConfig
from detection.truth import coco_document
from engine.image_results import ImageResults


def read_image_results(run: Path, record: dict[str, Any]) -> ImageResults:
    """AP from the run's `detections.json`, on the images and boxes that the run was scored on.

    They are in its `truth.json`. Runs of earlier versions have no such file: the data set is read again.
    """
    detections = json.loads((run / "detections.json").read_text())
    if (run / "truth.json").is_file():
        return match_detections(json.loads((run / "truth.json").read_text()), detections)
    config = TrainConfig.of(record["config"])
    options = BoxOptions.of(config.data)
    columns = read_scored("boxes", Path(record["dataset"]["root"]), options, config.data.holdout, config.seed)
    assert isinstance(columns, BoxColumns)
    truth = BoxDataset(columns, None, config.data.skip_bad, options).columns
    return match_detections(coco_document(truth, truth.image_ids, list(truth.category_ids)), detections)


def match_detections(truth_document: dict[str, Any], detections: list[dict[str, Any]]) -> ImageResults:
    """COCO's AP from detections in COCO's result format. They are matched once, with pycocotools.

    The score of `ImageResults` maps (R, N) counts of the N images in R resamples to (R,) APs in 0..1.

    Args:
        truth_document: content of a COCO instances file, as `coco_document` returns it.
        detections: content of a COCO results file.
    """
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = truth_document
        truth.createIndex()
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
            return np.nanmean([matches.precision(counts) for matches in classes], axis=0)

    return ImageResults(tuple(str(i) for i in params.imgIds), METRIC, score)


@dataclass(frozen=True)
class _Matches:
    """Matches of one class by pycocotools: M detections sorted by descending score, at T IoU thresholds.

    Attributes:
        image: (M,) index of the image of each detection.
        true_positive, false_positive: (T, M) bool. Both are False for an ignored detection.
        objects: (N,) number of objects in each image, without crowds.
        recalls: recall values at which the precision is sampled.
    """

    image: np.ndarray
    true_positive: np.ndarray
    false_positive: np.ndarray
    objects: np.ndarray
    recalls: np.ndarray

    @classmethod
    def of(cls, images: Sequence[dict[str, Any] | None], params: Any) -> _Matches:
        thresholds = len(params.iouThrs)
        objects = np.zeros(len(images), np.int64)
        scores, image_indices = [np.zeros(0)], [np.zeros(0, np.int64)]
        matched, ignored = [np.zeros((thresholds, 0))], [np.zeros((thresholds, 0), bool)]
        for i, image in enumerate(images):
            if image is None:  # neither objects nor detections
                continue
            objects[i] = np.count_nonzero(np.asarray(image["gtIgnore"]) == 0)
            scores.append(np.asarray(image["dtScores"], np.float64))
            image_indices.append(np.full(len(image["dtScores"]), i))
            matched.append(image["dtMatches"])
            ignored.append(image["dtIgnore"].astype(bool))
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        is_match, is_counted = np.concatenate(matched, axis=1)[:, order] > 0, ~np.concatenate(ignored, axis=1)[:, order]
        return cls(
            np.concatenate(image_indices)[order],
            is_match & is_counted,
            ~is_match & is_counted,
            objects,
            np.asarray(params.recThrs),
        )

    def precision(self, counts: np.ndarray) -> np.ndarray:
        """Mean precision over IoU thresholds and recalls: (R, N) image counts -> (R,); NaN without objects."""
        objects = counts @ self.objects
        result = np.full(len(counts), np.nan)
        for r in np.flatnonzero(objects):
            weights = counts[r, self.image]
            used = weights > 0
            true_positives = np.cumsum(self.true_positive[:, used] * weights[used], axis=1)
            false_positives = np.cumsum(self.false_positive[:, used] * weights[used], axis=1)
            with np.errstate(invalid="ignore"):
                precision = np.nan_to_num(true_positives / (true_positives + false_positives))
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            envelope = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
            index = [np.searchsorted(row, self.recalls, side="left") for row in true_positives / objects[r]]
            result[r] = np.take_along_axis(envelope, np.stack(index), axis=1).mean()
        return result
