"""Results per image of a finished detection run, read from its folder."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
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
from detection.config import AR_DETECTIONS, METRIC, TrainConfig
from detection.matching import MATCH_IOU, ClassMatches, operating_point
from detection.truth import coco_document
from engine.class_scores import class_scores, mean_over
from engine.image_results import ImageResults

# Metric -> IoU thresholds (None for all ten), range of areas in px^2, detections per image and class (None: the limit).
_AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
_SETTINGS: dict[str, tuple[float | None, tuple[float, float], int | None]] = {
    "AP50": (0.5, _AREAS[""], None),
    "AP75": (0.75, _AREAS[""], None),
    **{f"AP{size}": (None, area, None) for size, area in _AREAS.items()},
    **{f"AR{size}": (None, area, None) for size, area in _AREAS.items() if size},
    **{f"AR{count}": (None, _AREAS[""], count) for count in AR_DETECTIONS},
    **dict.fromkeys(("precision", "recall", "F1"), (MATCH_IOU, _AREAS[""], None)),
}


def read_image_results(run: Path, record: dict[str, Any], metric: str = METRIC) -> ImageResults:
    """A metric from the run's `detections.json`, on the images and boxes that the run was scored on.

    They are in its `truth.json`. Runs of earlier versions have no such file: the data set is read again.
    """
    detections = json.loads((run / "detections.json").read_text())
    config = TrainConfig.of(record["config"])
    limit = config.max_detections
    if (run / "truth.json").is_file():
        return match_detections(json.loads((run / "truth.json").read_text()), detections, metric, limit)
    options = BoxOptions.of(config.data)
    columns = read_scored("boxes", Path(record["dataset"]["root"]), options, config.data.holdout, config.seed)
    assert isinstance(columns, BoxColumns)
    truth = BoxDataset(columns, None, config.data.skip_bad, options).columns
    document = coco_document(truth, truth.image_ids, list(truth.category_ids))
    return match_detections(document, detections, metric, limit)


def match_detections(
    truth_document: dict[str, Any], detections: list[dict[str, Any]], metric: str = METRIC, max_detections: int = 100
) -> ImageResults:
    """One of `METRICS` from detections in COCO's result format. They are matched once, with pycocotools.

    The score of `ImageResults` maps (R, N) counts of the N images in R resamples to (R,) scores in 0..1. `precision`,
    `recall` and `F1` are those at the score threshold that is best for all images, whatever the resample.

    Args:
        truth_document: content of a COCO instances file, as `coco_document` returns it.
        detections: content of a COCO results file.
        metric: name of the metric.
        max_detections: number of detections of an image and class that count, see `CocoEvaluator`.
    """
    iou, area, count = _SETTINGS[metric]
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = truth_document
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections) if detections else COCO(), "bbox")
        params = evaluation.params
        params.imgIds, params.catIds = sorted(truth.getImgIds()), sorted(truth.getCatIds())
        params.areaRng, params.areaRngLbl = [list(area)], ["all"]
        params.maxDets = [min(count or max_detections, max_detections)]
        params.iouThrs = params.iouThrs if iou is None else np.array([iou])
        evaluation.evaluate()
    images = len(params.imgIds)
    classes = [
        _Matches.of(evaluation.evalImgs[i * images : (i + 1) * images], params) for i in range(len(params.catIds))
    ]
    keys = tuple(str(i) for i in params.imgIds)
    if metric in ("precision", "recall", "F1"):
        return ImageResults(keys, metric, _score_at_threshold(classes, metric))

    def score(counts: np.ndarray) -> np.ndarray:
        scores = [each.precision(counts) if metric.startswith("AP") else each.recall(counts) for each in classes]
        by_class = np.stack(scores, axis=-1)
        return mean_over(by_class, ~np.isnan(by_class))

    return ImageResults(keys, metric, score)


def _score_at_threshold(classes: Sequence[_Matches], metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """The score of `ImageResults` for precision, recall or F1."""
    threshold = operating_point([each.at_one_iou() for each in classes]).threshold
    counts_by_image = np.stack([each.counts_by_image(threshold) for each in classes], axis=2)  # (3, N, K)

    def score(counts: np.ndarray) -> np.ndarray:
        correct, detected, objects = (counts @ of_images for of_images in counts_by_image)
        return mean_over(class_scores(correct, objects, detected)[metric], objects > 0)

    return score


@dataclass(frozen=True)
class _Matches:
    """Matches of one class by pycocotools: M detections sorted by descending score, at T IoU thresholds.

    Attributes:
        image: (M,) index of the image of each detection.
        scores: (M,) in 0..1.
        true_positive, false_positive: (T, M) bool. Both are False for an ignored detection.
        objects: (N,) number of objects in each image, without crowds.
        recalls: recall values at which the precision is sampled.
    """

    image: np.ndarray
    scores: np.ndarray
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
            np.concatenate(scores)[order],
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

    def recall(self, counts: np.ndarray) -> np.ndarray:
        """Mean recall over IoU thresholds: (R, N) image counts -> (R,); NaN without objects."""
        found = np.bincount(self.image, self.true_positive.mean(0), len(self.objects))  # in each image
        with np.errstate(invalid="ignore"):
            return (counts @ found) / (counts @ self.objects)

    def at_one_iou(self) -> ClassMatches:
        """The detections that are counted at the only IoU threshold."""
        counted = self.true_positive[0] | self.false_positive[0]
        return ClassMatches(self.scores[counted], self.true_positive[0, counted], int(self.objects.sum()))

    def counts_by_image(self, threshold: float) -> np.ndarray:
        """(3, N) correct detections and all detections with at least this score, and objects, of each image."""
        selected = self.scores >= threshold
        correct = np.bincount(self.image, self.true_positive[0] & selected, len(self.objects))
        wrong = np.bincount(self.image, self.false_positive[0] & selected, len(self.objects))
        return np.stack([correct, correct + wrong, self.objects])
