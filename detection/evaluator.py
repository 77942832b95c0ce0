"""COCO's box metrics over a data set, from detections in network pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from backbones.errors import BadInput
from data.batch import Batch
from detection.postprocess import Detections

# The twelve numbers in the order of pycocotools' `COCOeval.summarize`.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoEvaluator:
    """Average precision and recall as pycocotools computes them, crowds ignored as there.

    Args:
        annotation_file: COCO JSON with the ground truth.
        image_ids: images that are scored; those never passed to `update` count as without detections.
        category_ids: original id of each of the model's classes.
    """

    def __init__(self, annotation_file: Path, image_ids: Sequence[int], category_ids: Sequence[int]) -> None:
        self.annotation_file = annotation_file
        self.image_ids = [int(i) for i in image_ids]
        self.category_ids = np.asarray(category_ids)
        self.per_class: dict[str, float] = {}
        self._truth: COCO | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._rows: list[np.ndarray] = []

    def update(self, predictions: Detections, batch: Batch) -> None:
        """Add a batch's detections, in original pixels; an unreadable image counts as without any."""
        boxes, scores, labels = (part.cpu() for part in predictions)
        found = (labels >= 0) & batch.readable.cpu()[:, None]
        image_ids = batch.image_ids.cpu()[:, None].expand_as(labels)[found].numpy()
        x1, y1, x2, y2 = boxes[found].double().numpy().T
        categories = self.category_ids[labels[found].numpy()]
        self._rows.append(
            np.stack([image_ids, x1, y1, x2 - x1, y2 - y1, scores[found].double().numpy(), categories], axis=1)
        )

    @property
    def detections(self) -> np.ndarray:
        """(N, 7): image id, x, y, width, height in original pixels, score, category id."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 7))

    def compute(self) -> dict[str, float]:
        """The twelve numbers, fractions in 0..1; NaN where no ground truth of that size exists."""
        if self._truth is None:
            self._truth = self._read()
        rows = self.detections
        columns = [
            column.tolist()
            for column in (rows[:, [0, 6]].astype(int), rows[:, 1:5], rows[:, 3] * rows[:, 4], rows[:, 5])
        ]
        found = COCO()
        found.dataset = {
            "images": self._truth.dataset["images"],
            "categories": self._truth.dataset["categories"],
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
                for i, ((image, category), box, area, score) in enumerate(zip(*columns, strict=True), start=1)
            ],
        }
        found.createIndex()
        evaluation = COCOeval_faster(self._truth, found, "bbox", print_function=_ignore)
        evaluation.params.imgIds = self.image_ids
        evaluation.run()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class at all sizes and 100 detections
        self.per_class = {
            category["name"]: _mean(precision[:, :, index])
            for index, category in enumerate(
                sorted(self._truth.dataset["categories"], key=lambda category: category["id"])
            )
        }
        return {
            name: float(value) if value >= 0 else float("nan")
            for name, value in zip(METRICS, evaluation.stats, strict=True)
        }

    def _read(self) -> COCO:
        truth = COCO(str(self.annotation_file))
        if not truth.dataset.get("annotations"):
            raise BadInput(f"{self.annotation_file} has no annotations: there is nothing to score against")
        return truth


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _ignore(*_: Any) -> None:
    """COCO's readers print what they do; the progress bar is enough."""
