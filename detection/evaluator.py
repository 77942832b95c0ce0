"""COCO's box metrics of a data set, from detections in original pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from backbones.errors import BadInput
from data.batch import Batch
from detection.postprocess import Detections

# The twelve metrics in the order of pycocotools' `COCOeval.summarize`.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class CocoEvaluator:
    """Average precision and recall, computed as in pycocotools. Crowds are ignored as there.

    Args:
        annotation_file: COCO JSON file with the ground truth.
        image_ids: images to evaluate. Images that are not passed to `update` count as images without detections.
        category_ids: original category id of each class of the model.
    """

    def __init__(self, annotation_file: Path, image_ids: Sequence[int], category_ids: Sequence[int]) -> None:
        self.annotation_file = annotation_file
        self.image_ids = [int(i) for i in image_ids]
        self.category_ids = np.asarray(category_ids)
        self.per_class: dict[str, float] = {}
        self._truth: COCO | None = None
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
        categories = self.category_ids[labels[valid].numpy()]
        self._rows.append(
            np.stack([image_ids, x1, y1, x2 - x1, y2 - y1, scores[valid].double().numpy(), categories], axis=1)
        )

    @property
    def detections(self) -> np.ndarray:
        """(N, 7): image id, x, y, width, height in original pixels, score, category id."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 7))

    def compute(self) -> dict[str, float]:
        """The twelve metrics as fractions in 0..1; NaN if there is no ground truth of that size.

        Raises BadInput if the annotation file has no annotations.
        """
        if self._truth is None:
            self._truth = self._read()
        rows = self.detections
        columns = [
            column.tolist()
            for column in (rows[:, [0, 6]].astype(int), rows[:, 1:5], rows[:, 3] * rows[:, 4], rows[:, 5])
        ]
        results = COCO()
        results.dataset = {
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
        results.createIndex()
        evaluation = COCOeval_faster(self._truth, results, "bbox", print_function=_print_nothing)
        evaluation.params.imgIds = self.image_ids
        evaluation.run()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all sizes, 100 detections
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
            raise BadInput(f"{self.annotation_file} has no annotations: no metric can be computed")
        return truth


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else float("nan")


def _print_nothing(*_: Any) -> None:
    """In place of the messages of faster_coco_eval: the commands have a progress bar."""
