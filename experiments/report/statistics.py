"""How sure a difference between two networks is: a paired bootstrap over images, and over seeds if there are several.

Which images a validation set happens to hold decides scores by points. Both networks are scored on the same images, so
these are drawn anew, with replacement, for both together, and the spread of the difference tells what another set of
images might have shown (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13). Each image's
results are worked out once; a resample only counts them again.
"""

from __future__ import annotations

import csv
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
from scipy.sparse import csr_array

from backbones.errors import BadInput
from data.formats.coco_json import locate

METRIC = {"classification": "top1", "detection": "AP", "segmentation": "mIoU"}
CHUNK = 256  # resamples that are held at once


@dataclass(frozen=True)
class ImageResults:
    """One run's results by image.

    Attributes:
        keys: what tells the N images apart.
        metric: "top1", "AP" or "mIoU".
        score: counts (R, N), how often each image counts in each of R resamples -> (R,) the metric, fractions in 0..1;
            NaN where it is undefined.
    """

    keys: tuple[str, ...]
    metric: str
    score: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Difference:
    """A difference of two scores, as fractions, with its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `not distinguishable` where the interval holds 0."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not distinguishable"


def bootstrap(
    ours: Sequence[ImageResults],
    baseline: Sequence[ImageResults],
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """The difference of mean scores, ours - baseline, and the interval that covers the true one `level` of the time.

    Args:
        ours, baseline: the runs of each, one a seed; all on the same images.
        resamples: of the images, and of the seeds.
        seed: of the resamples.
        level: of confidence, in 0..1.

    Where a side has several seeds, they are resampled too, for trainings differ as images do; with one seed the
    interval is about images alone, for a single training tells nothing of others. Deviations are widened by
    sqrt(n / (n - 1)), as a resample of n seeds varies less than n new ones (Rao and Wu, J. Am. Stat. Assoc. 83, 1988).
    Interval ends are percentiles.

    Raises BadInput where the runs were not scored on the same images.
    """
    runs = [*ours, *baseline]
    if any(run.keys != runs[0].keys or run.metric != runs[0].metric for run in runs):
        raise BadInput("the runs to compare were not scored on the same images: evaluate them on the same split")
    random = np.random.default_rng(seed)
    images = len(runs[0].keys)
    even = np.ones((1, images), np.int64)
    value = float(_mean(ours, even)[0] - _mean(baseline, even)[0])
    drawn = []
    for start in range(0, resamples, CHUNK):
        counts = random.multinomial(images, np.full(images, 1 / images), size=min(CHUNK, resamples - start))
        sides = []
        for side in (ours, baseline):
            scores = np.stack([run.score(counts) for run in side])
            picked = random.multinomial(len(side), np.full(len(side), 1 / len(side)), size=len(counts)).T / len(side)
            center = scores.mean(0)
            wider = np.sqrt(len(side) / max(1, len(side) - 1))
            sides.append(center + wider * ((picked * scores).sum(0) - center))
        drawn.append(sides[0] - sides[1])
    spread = np.concatenate(drawn)
    low, high = np.nanquantile(spread, [(1 - level) / 2, (1 + level) / 2])
    return Difference(value, float(low), float(high))


def read_images(run: Path) -> ImageResults:
    """The results by image that a finished run left in its folder. Raises BadInput where they are absent or damaged."""
    try:
        record = json.loads((run / "record.json").read_text())
        task = record["task"]
        if task == "classification":
            return of_classification(run / "images.csv")
        if task == "segmentation":
            return of_segmentation(run / "images.npy")
        detections = json.loads((run / "detections.json").read_text())
        return of_detection(locate(Path(record["dataset"]["root"]), "val")[0], detections)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{run} has no results by image that can be read ({error}): train it again") from error


def of_classification(file: Path) -> ImageResults:
    """Top-1 of an `images.csv`."""
    with file.open(newline="") as table:
        rows = list(csv.DictReader(table))
    correct = np.array([int(row["correct"]) for row in rows], np.float64)

    def score(counts: np.ndarray) -> np.ndarray:
        return counts @ correct / counts.sum(1)

    return ImageResults(tuple(row["file"] for row in rows), METRIC["classification"], score)


def of_segmentation(file: Path) -> ImageResults:
    """Mean IoU of an `images.npy`: over all pixels together, and the classes that occur in truth or prediction."""
    ids, classes, *counted = np.load(file, allow_pickle=False).T
    keys, image = np.unique(ids, return_inverse=True)
    shape = len(keys), int(classes.max(initial=0)) + 1
    right, truth, prediction = (csr_array((column, (image, classes)), shape=shape) for column in counted)

    def score(counts: np.ndarray) -> np.ndarray:
        intersection = counts @ right
        union = counts @ truth + counts @ prediction - intersection
        with np.errstate(invalid="ignore"):
            return np.nanmean(intersection / union, axis=1)

    return ImageResults(tuple(str(key) for key in keys), METRIC["segmentation"], score)


def of_detection(annotation_file: Path, detections: list[dict[str, Any]]) -> ImageResults:
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

    return ImageResults(tuple(str(i) for i in params.imgIds), METRIC["detection"], score)


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


def _mean(runs: Sequence[ImageResults], counts: np.ndarray) -> np.ndarray:
    return np.mean([run.score(counts) for run in runs], axis=0)
