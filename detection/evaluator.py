"""COCO's box metrics of a data set, from detections in original pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from data.batch import Batch
from data.columns import BoxColumns
from detection.postprocess import Detections
from detection.truth import coco_document

# The twelve metrics in the order of pycocotools' `COCOeval.summarize`.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoEvaluator:
    """Average precision and recall, computed as in pycocotools. Crowds are ignored as there.

    Args:
        truth: images and boxes to score. Images that are not passed to `update` count as images without detections.
            Its classes are the outputs of the model.
        listed: (K,) bool, classes that the data list. `per_class` has no others. All by default.
    """

    def __init__(self, truth: BoxColumns, listed: np.ndarray | None = None) -> None:
        self.truth = truth
        self.listed = np.ones(len(truth.classes), bool) if listed is None else listed
        self.per_class: dict[str, float] = {}
        self._coco: COCO | None = None
        # Images are numbered in the order of their ids: pycocotools sorts detections of equal scores by image.
        self._sorted_ids = np.sort(truth.image_ids)
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
        self._rows.append(
            np.stack([image_ids, x1, y1, x2 - x1, y2 - y1, scores[valid].double().numpy(), labels[valid]], axis=1)
        )

    @property
    def detections(self) -> np.ndarray:
        """(N, 7): image id, x, y, width, height in original pixels, score, class index."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 7))

    def compute(self) -> dict[str, float]:
        """The twelve metrics as fractions in 0..1; NaN if there is no ground truth of that size."""
        if self._coco is None:
            self._coco = _coco(coco_document(self.truth, self._numbers, list(range(1, len(self.truth.classes) + 1))))
        rows = self.detections
        images = np.searchsorted(self._sorted_ids, rows[:, 0].astype(np.int64)) + 1
        columns = (
            images.tolist(),
            (rows[:, 6].astype(int) + 1).tolist(),
            rows[:, 1:5].tolist(),
            (rows[:, 3] * rows[:, 4]).tolist(),
            rows[:, 5].tolist(),
        )
        results = _coco(
            {
                "images": self._coco.dataset["images"],
                "categories": self._coco.dataset["categories"],
                "annotations": [
                    {
                        "id": i,
                        "image_id": image,
                        "category_id": category,
                        "bbox": box,
                        "area": area,
                        "score": score,
                        "iscrowd": 0,
                    }
                    for i, (image, category, box, area, score) in enumerate(zip(*columns, strict=True), start=1)
                ],
            }
        )
        evaluation = COCOeval_faster(self._coco, results, "bbox", print_function=_print_nothing)
        evaluation.run()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all sizes, 100 detections
        self.per_class = {
            name: _mean(precision[:, :, index]) for index, name in enumerate(self.truth.classes) if self.listed[index]
        }
        return {
            name: float(value) if value >= 0 else float("nan")
            for name, value in zip(METRICS, evaluation.stats, strict=True)
        }


def _coco(document: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = document
    coco.createIndex()
    return coco


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _print_nothing(*_: Any) -> None:
    """In place of the messages of faster_coco_eval: the commands have a progress bar."""
