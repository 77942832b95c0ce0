"""COCO's box metrics of a data set, from detections in original pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.batch import Batch
from data.columns import BoxColumns
from detection.coco_scores import CocoScores, selected_scorer
from detection.config import AR_DETECTIONS, COCO_METRICS
from detection.matching import OperatingPoint, match_classes, operating_point
from detection.postprocess import Detections
from detection.truth import coco_document, known_classes, with_unlabelled_regions

METRICS = COCO_METRICS


class CocoEvaluator:
    """Average precision and recall, computed as in pycocotools. Crowds are ignored as there.

    Also precision, recall and F1 at an IoU of 0.5 and at one score threshold for all classes, where the mean F1 over
    classes is highest. They are means over the classes that have objects.

    Args:
        truth: images and boxes to score. Images that are not passed to `update` count as images without detections.
            Its classes are the outputs of the model. Where objects of a class may have no box, detections without an
            object are not counted, as in LVIS (arXiv:1908.03195). For such a class, an image without its boxes loses
            its detections of the class; any other image becomes a crowd region of the class.
        listed: (K,) bool, classes that the data list. `class_table` has no others. All by default.
        max_detections: number of detections of an image and class that count, the best ones. COCO's number is 100.
            AR1 and AR10 use lower limits, and AR100 at most 100.
    """

    def __init__(self, truth: BoxColumns, listed: np.ndarray | None = None, max_detections: int = 100) -> None:
        self.truth, self.max_detections = with_unlabelled_regions(truth), max_detections
        self._known = known_classes(truth)
        self.listed = np.ones(len(truth.classes), bool) if listed is None else listed
        self._class_table: dict[str, dict[str, float]] = {}
        self._scorer = selected_scorer()  # before the first epoch, so that a wrong name costs none
        self._scores: CocoScores | None = None
        # Images are numbered in the order of their ids: pycocotools sorts detections of equal scores by image.
        self._by_id = truth.image_ids.argsort()
        self._sorted_ids = truth.image_ids[self._by_id]
        self._numbers = np.searchsorted(self._sorted_ids, truth.image_ids) + 1
        self.reset()

    def reset(self) -> None:
        """Remove all detections."""
        self._rows: list[np.ndarray] = []

    def update(self, predictions: Detections, batch: Batch) -> None:
        """Add the detections of a batch, in original pixels. Those of unreadable images are ignored."""
        boxes, scores, labels = (field.cpu() for field in predictions)
        valid = (labels >= 0) & batch.readable.cpu()[:, None]
        image_ids = batch.image_ids.cpu()[:, None].expand_as(labels)[valid].numpy()
        x1, y1, x2, y2 = boxes[valid].double().numpy().T
        columns = image_ids, x1, y1, x2 - x1, y2 - y1, scores[valid].double().numpy(), labels[valid]
        self.add(np.stack(columns, axis=1))

    def add(self, rows: np.ndarray) -> None:
        """Add detections from elsewhere: (N, 7), see `detections`."""
        if self._known is not None:
            rows = rows[self._known[self._indices(rows), rows[:, 6].astype(np.int64)]]
        self._rows.append(rows)

    def state(self) -> np.ndarray:
        """All detections: (N, 7), see `detections`."""
        return self.detections

    def merge(self, states: Sequence[np.ndarray]) -> None:
        """Replace the detections by those of these states."""
        self._rows = list(states)

    @property
    def detections(self) -> np.ndarray:
        """(N, 7): image id, x, y, width, height in original pixels, score, class index."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 7))

    @property
    def per_class(self) -> dict[str, float]:
        """AP of each class in the last `compute`, in 0..1. NaN for classes without objects."""
        return {name: row["AP"] for name, row in self._class_table.items()}

    def class_table(self) -> dict[str, dict[str, float]]:
        """AP, AP50, precision, recall and F1 of each class in the last `compute`, in 0..1, and number of objects."""
        return self._class_table

    def compute(self) -> dict[str, float]:
        """COCO's twelve metrics, `precision`, `recall` and `F1`, and the `score_threshold` of these three.

        Fractions in 0..1; NaN if there is no ground truth of that size.
        """
        if self._scores is None:
            document = coco_document(self.truth, self._numbers, list(range(1, len(self.truth.classes) + 1)))
            self._scores = CocoScores(document, self._scorer)
        rows = self.detections
        numbered = rows.copy()
        numbered[:, 0] = np.searchsorted(self._sorted_ids, rows[:, 0].astype(np.int64)) + 1
        numbered[:, 6] += 1
        limit = self.max_detections
        limits = sorted({limit, *(min(count, limit) for count in AR_DETECTIONS)})
        precision, recall = self._scores.arrays(numbered, limits)
        by_size = [precision[..., size, -1] for size in range(4)]  # (IoU, recall, class): all, small, medium, large
        average_precisions = by_size[0], by_size[0][0], by_size[0][5], *by_size[1:]  # IoUs are 0.5, 0.55, ...
        average_recalls = [recall[..., 0, limits.index(min(count, limit))] for count in AR_DETECTIONS]
        average_recalls += [recall[..., size, -1] for size in range(1, 4)]
        values = (_mean(array) for array in (*average_precisions, *average_recalls))

        points = self._operating_point(rows)
        objects = np.bincount(self.truth.label[~self.truth.crowd & ~self.truth.difficult], minlength=len(self.listed))
        self._class_table = {
            name: {
                "AP": _mean(by_size[0][..., index]),
                "AP50": _mean(by_size[0][0, :, index]),
                "precision": float(points.precision[index]),
                "recall": float(points.recall[index]),
                "F1": float(points.f1[index]),
                "objects": int(objects[index]),
            }
            for index, name in enumerate(self.truth.classes)
            if self.listed[index]
        }
        return dict(zip(METRICS, values, strict=True)) | {
            "precision": _mean_of_known(points.precision),
            "recall": _mean_of_known(points.recall),
            "F1": _mean_of_known(points.f1),
            "score_threshold": points.threshold,
        }

    def _operating_point(self, rows: np.ndarray) -> OperatingPoint:
        detections = np.column_stack([self._indices(rows), rows[:, 1:]])
        return operating_point(match_classes(self.truth, detections, self.max_detections))

    def _indices(self, rows: np.ndarray) -> np.ndarray:
        """(N,) index of the image of each detection."""
        return self._by_id[np.searchsorted(self._sorted_ids, rows[:, 0].astype(np.int64))]


def _mean(values: np.ndarray) -> float:
    """The mean of precisions or recalls, without the -1 of classes that have no objects."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _mean_of_known(values: np.ndarray) -> float:
    return _mean(values[~np.isnan(values)])
