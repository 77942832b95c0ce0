"""COCO's precision and recall of a whole set, by the library that computes them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from backbones.errors import UserError

SCORER_VARIABLE = "BACKBONE_SWAP_SCORER"
SCORERS = ("hotcoco", "faster-coco-eval")


def selected_scorer() -> str:
    """The scorer that the environment variable `BACKBONE_SWAP_SCORER` names, by default hotcoco.

    Raises UserError if it names another one than `SCORERS`.
    """
    name = os.environ.get(SCORER_VARIABLE) or SCORERS[0]
    if name not in SCORERS:
        raise UserError(f"the scorer {name!r} ({SCORER_VARIABLE}) is none of {', '.join(SCORERS)}")
    return name


class CocoScores:
    """Scores detections against one COCO instances document, with the numbers of pycocotools.

    Args:
        truth: the document, with ids of images and categories that are whole numbers from 0.
        scorer: one of `SCORERS`, by default `selected_scorer()`.
    """

    def __init__(self, truth: dict[str, Any], scorer: str | None = None) -> None:
        self.scorer = scorer or selected_scorer()
        self._document = truth
        self._truth = self._loaded(truth)

    def arrays(self, rows: np.ndarray, limits: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall as `COCOeval.accumulate` of pycocotools computes them; -1 where undefined.

        Args:
            rows: (N, 7): image id, x, y, width, height in px, score, category id.
            limits: L numbers of detections of an image and class that count, ascending.

        Returns:
            (10, 101, K, 4, L) precision by IoU threshold, recall, class, range of areas and limit, and
            (10, K, 4, L) recall.
        """
        evaluation: Any
        if self.scorer == "hotcoco":
            import hotcoco

            found = self._truth.loadRes(np.ascontiguousarray(rows, np.float64))
            evaluation = hotcoco.COCOeval(self._truth, found, "bbox")
        else:
            import faster_coco_eval

            found = self._loaded(self._document | {"annotations": _annotations(rows)})
            evaluation = faster_coco_eval.COCOeval_faster(self._truth, found, "bbox", print_function=_print_nothing)
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])

    def _loaded(self, document: dict[str, Any]) -> Any:
        coco: Any
        if self.scorer == "hotcoco":
            import hotcoco

            coco = hotcoco.COCO()
        else:
            import faster_coco_eval

            coco = faster_coco_eval.COCO()
        coco.dataset = document
        coco.createIndex()
        return coco


def _annotations(rows: np.ndarray) -> list[dict[str, Any]]:
    columns = (
        rows[:, 0].astype(int).tolist(),
        rows[:, 6].astype(int).tolist(),
        rows[:, 1:5].tolist(),
        (rows[:, 3] * rows[:, 4]).tolist(),
        rows[:, 5].tolist(),
    )
    return [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": area, "score": score, "iscrowd": 0}
        for i, (image, category, box, area, score) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _print_nothing(*_: Any) -> None:
    """In place of the messages of faster_coco_eval: the commands have a progress bar."""
