"""Results per image of a finished detection run, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.box_dataset import BoxDataset
from detection.config import AR_DETECTIONS, METRIC, TrainConfig
from detection.matching import operating_point
from detection.resampling import ClassDetections, PrecisionOfResamples, average_precisions, class_detections
from detection.run_matches import AREAS, RunMatches, match_documents, matches_digest, stored_matches
from detection.truth import coco_document
from engine.class_scores import class_scores, mean_over
from engine.image_results import ImageResults
from engine.scored_images import scored_images

# Metric -> which of `IOUS`, which of `AREAS`, detections per image and class (None: the limit).
_ALL, _FIRST = slice(None), slice(0, 1)
_SETTINGS: dict[str, tuple[slice, str, int | None]] = {
    "AP50": (_FIRST, "", None),
    "AP75": (slice(5, 6), "", None),
    **{f"AP{size}": (_ALL, size, None) for size in AREAS},
    **{f"AR{size}": (_ALL, size, None) for size in AREAS if size},
    **{f"AR{count}": (_ALL, "", count) for count in AR_DETECTIONS},
    **dict.fromkeys(("precision", "recall", "F1"), (_FIRST, "", None)),
}


def read_image_results(run: Path, record: dict[str, Any], metric: str = METRIC) -> ImageResults:
    """A metric from the run's `detections.json`, on the images and boxes that the run was scored on.

    They are in its `truth.json`. Runs of earlier versions have no such file: the data set is read again.
    """
    config = TrainConfig.of(record["config"])
    limit = config.max_detections
    if (run / "truth.json").is_file():
        return image_results(run_matches(run, limit), metric, limit)
    truth = scored_images(BoxDataset, record, config).columns
    document = coco_document(truth, truth.image_ids, list(truth.category_ids))
    return image_results(run_matches(run, limit, json.dumps(document).encode()), metric, limit)


def run_matches(run: Path, limit: int, truth: bytes | None = None) -> RunMatches:
    """Match the detections in a run's folder, or read the matches if the folder has those of the same files.

    Args:
        run: folder with `detections.json`, and with `truth.json` unless `truth` has its content.
        limit: number of detections of an image and class that count.
        truth: a COCO instances document.
    """
    detections = (run / "detections.json").read_bytes()
    content = (run / "truth.json").read_bytes() if truth is None else truth
    return stored_matches(
        run,
        matches_digest(content, detections, limit),
        lambda: match_documents(json.loads(content), json.loads(detections), limit),
    )


def match_detections(
    truth_document: dict[str, Any], detections: list[dict[str, Any]], metric: str = METRIC, max_detections: int = 100
) -> ImageResults:
    """One of `METRICS` from detections in COCO's result format. They are matched once, as in pycocotools.

    The score of `ImageResults` maps (R, N) counts of the N images in R resamples to (R,) scores in 0..1. `precision`,
    `recall` and `F1` are those at the score threshold that is best for all images, whatever the resample.

    Args:
        truth_document: content of a COCO instances file, as `coco_document` returns it.
        detections: content of a COCO results file.
        metric: name of the metric.
        max_detections: number of detections of an image and class that count, see `CocoEvaluator`.
    """
    return image_results(match_documents(truth_document, detections, max_detections), metric, max_detections)


def image_results(matches: RunMatches, metric: str, max_detections: int) -> ImageResults:
    """One of `METRICS` from the matches of a run, see `match_detections`."""
    ious, area, count = _SETTINGS[metric]
    limit = min(count or max_detections, max_detections)
    classes = class_detections(matches, list(AREAS).index(area), ious, limit)
    if metric.startswith("AP"):
        score = _average_precision(classes)
    elif metric.startswith("AR"):
        score = _average_recall(classes)
    else:
        score = _score_at_threshold(classes, metric)
    return ImageResults(tuple(str(i) for i in matches.image_ids.tolist()), metric, score)


def _average_precision(classes: list[ClassDetections]) -> Callable[[np.ndarray], np.ndarray]:
    precisions = [PrecisionOfResamples(each) for each in classes]

    def score(counts: np.ndarray) -> np.ndarray:
        by_class = average_precisions(precisions, counts)
        return mean_over(by_class, ~np.isnan(by_class))

    return score


def _average_recall(classes: list[ClassDetections]) -> Callable[[np.ndarray], np.ndarray]:
    from scipy.sparse import csr_array

    found = csr_array(np.stack([each.recall_by_image() for each in classes], axis=1))
    objects = csr_array(np.stack([each.objects for each in classes], axis=1))

    def score(counts: np.ndarray) -> np.ndarray:
        total = counts @ objects
        with np.errstate(invalid="ignore"):
            return mean_over((counts @ found) / total, total > 0)

    return score


def _score_at_threshold(classes: list[ClassDetections], metric: str) -> Callable[[np.ndarray], np.ndarray]:
    """The score of `ImageResults` for precision, recall or F1."""
    from scipy.sparse import csr_array

    threshold = operating_point([each.at_one_iou() for each in classes]).threshold
    by_image = np.stack([each.counts_by_image(threshold) for each in classes], axis=2)
    counts_by_image = [csr_array(values) for values in by_image]  # 3 times (N, K)

    def score(counts: np.ndarray) -> np.ndarray:
        correct, detected, objects = (counts @ of_images for of_images in counts_by_image)
        return mean_over(class_scores(correct, objects, detected)[metric], objects > 0)

    return score
