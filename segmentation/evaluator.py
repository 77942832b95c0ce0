"""Segmentation scores from one confusion matrix over a whole data set, in constant memory."""

from __future__ import annotations

import heapq
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from backbones.errors import BadInput
from data.batch import IGNORE, Batch
from engine.class_scores import class_scores
from segmentation.errors import SegmentationErrors
from segmentation.metrics import segmentation_scores
from segmentation.tta import ClassMap

EXTREMES = 4  # number of worst and of best images to remember
COLUMNS = ("image_id", "class", "intersection", "truth", "prediction")  # counts of each image


class SegmentationEvaluator:
    """Intersection over union and accuracy over the pixels of all images. Scores are not averaged over images.

    Args:
        classes: names by index, at most 255.
        ignored: indices of classes that the true masks never contain, because their mask value is ignored. They have
            no score of their own and are left out of means. A pixel of another class that is predicted as one of them
            is an error of the other class.

    Attributes:
        errors: of the images whose confidences are known, see `SegmentationErrors`.
        confusion: (K, K) int64, number of pixels by true class (rows) and predicted class (columns), on the device of
            the predictions. None before the first batch.
        worst, best: up to four pairs (mIoU, image id) each, the most extreme first. The mIoU of a single image is the
            mean over the classes in its truth. It only selects images for pictures.
    """

    def __init__(self, classes: Sequence[str], ignored: Collection[int] = ()) -> None:
        self.classes = tuple(classes)
        self.scored = np.array([i not in ignored for i in range(len(self.classes))], bool)
        self.reset()

    def reset(self) -> None:
        """Discard all predictions."""
        self.confusion: Tensor | None = None
        self.errors = SegmentationErrors(self.classes, self.scored)
        self._low: list[tuple[float, int]] = []
        self._high: list[tuple[float, int]] = []
        self._rows: IO[bytes] | None = None  # counts of each image, on disk, because their number is unlimited

    def update(self, predictions: Sequence[Tensor | ClassMap], batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: class map (height, width) of each image, in original pixels; with the confidences, `errors` is
                updated too.
            batch: with masks in original pixels. Pixels without a true class and unreadable images do not count.
        """
        assert batch.masks is not None
        count = len(self.classes)
        for prediction, truth, image_id, readable in zip(
            predictions, batch.masks, batch.image_ids.tolist(), batch.readable.tolist(), strict=True
        ):
            labels, confidence = (
                (prediction.labels, prediction.confidence) if isinstance(prediction, ClassMap) else (prediction, None)
            )
            truth = truth[: labels.shape[0], : labels.shape[1]]
            counted = truth != IGNORE
            index = truth[counted].long() * count + labels[counted]
            confusion = torch.bincount(index, minlength=count * count).view(count, count)
            self.confusion = confusion if self.confusion is None else self.confusion + confusion
            if readable and len(index):
                matrix = confusion.cpu().numpy()
                self._update_extremes(float(_iou_in_truth(matrix).mean()), image_id)
                self._append_rows(matrix, image_id)
                if confidence is not None:
                    self.errors.update(*(t.cpu().numpy() for t in (labels, truth, confidence)))

    def state(self) -> dict[str, Any]:
        """All sums, the most extreme images, and the counts of each image."""
        if self._rows is not None:
            self._rows.seek(0)
        return {
            "confusion": self.matrix(),
            "errors": self.errors.state(),
            "low": self._low,
            "high": self._high,
            "rows": b"" if self._rows is None else self._rows.read(),
        }

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Replace the predictions by those of these states."""
        self.reset()
        self.confusion = torch.from_numpy(np.sum([state["confusion"] for state in states], axis=0))
        self.errors.merge([state["errors"] for state in states])
        for state in states:
            for value, image_id in state["high"]:
                self._push(self._high, value, image_id)
            for value, image_id in state["low"]:
                self._push(self._low, value, image_id)
            if state["rows"]:
                self._file().write(state["rows"])

    def compute(self) -> dict[str, float]:
        """The metrics of `segmentation_scores`, fractions in 0..1. Raises BadInput if no pixel has a true class.

        Ignored classes are left out of the means.
        """
        counts = self._counts()
        if not counts[1].sum():
            raise BadInput("no pixel of the ground truth belongs to a class: there is nothing to score against")
        return {name: float(value) for name, value in segmentation_scores(*counts).items()}

    def matrix(self) -> np.ndarray:
        """`confusion` as a numpy array. Zeros before the first batch."""
        count = len(self.classes)
        return np.zeros((count, count), np.int64) if self.confusion is None else self.confusion.cpu().numpy()

    @property
    def per_class(self) -> dict[str, float]:
        """IoU by class name, in 0..1. NaN for ignored classes and for those in neither truth nor prediction."""
        return {name: row["IoU"] for name, row in self.class_table().items()}

    def class_table(self) -> dict[str, dict[str, float]]:
        """IoU, Dice, precision and recall of each class, in 0..1, and its number of pixels. NaN where undefined."""
        counts = self._counts()
        columns = class_scores(*counts)
        columns["Dice"] = columns.pop("F1")
        names = ("IoU", "Dice", "precision", "recall")
        return {
            name: {column: float(columns[column][i]) for column in names} | {"pixels": int(counts[1][i])}
            for i, name in enumerate(self.classes)
        }

    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(K,) pixels of each class: predicted correctly, in the truth, and in the prediction of scored classes."""
        matrix = self.matrix()
        return matrix.diagonal(), matrix.sum(1), matrix.sum(0) * self.scored

    def write_images(self, file: Path) -> None:
        """Write the counts of each image, for statistics that resample images, as .npy: (M, 5) int64 with `COLUMNS`.

        There is one row for each class that occurs in an image's truth or prediction and is not ignored. The counts are
        its number of pixels in both, in the truth and in the prediction, among the pixels with a true class.
        """
        with file.open("wb") as out:
            count = self._rows.tell() // (8 * len(COLUMNS)) if self._rows is not None else 0
            header = {"descr": "<i8", "fortran_order": False, "shape": (count, len(COLUMNS))}
            np.lib.format.write_array_header_1_0(out, header)
            if self._rows is not None:
                self._rows.seek(0)
                shutil.copyfileobj(self._rows, out)  # this moves the position back to the end

    @property
    def worst(self) -> list[tuple[float, int]]:
        return sorted((-score, image_id) for score, image_id in self._low)

    @property
    def best(self) -> list[tuple[float, int]]:
        return sorted(self._high, reverse=True)

    def _append_rows(self, matrix: np.ndarray, image_id: int) -> None:
        truth, prediction = matrix.sum(1), matrix.sum(0)
        labels = np.flatnonzero((truth + prediction) * self.scored)
        counts = matrix.diagonal()[labels], truth[labels], prediction[labels]
        columns = np.full(len(labels), image_id), labels, *counts
        self._file().write(np.stack(columns, axis=1).astype("<i8").tobytes())

    def _file(self) -> IO[bytes]:
        if self._rows is None:
            self._rows = tempfile.TemporaryFile()  # noqa: SIM115 - open until the evaluator is deleted
        return self._rows

    def _update_extremes(self, score: float, image_id: int) -> None:
        self._push(self._low, -score, image_id)
        self._push(self._high, score, image_id)

    @staticmethod
    def _push(heap: list[tuple[float, int]], value: float, image_id: int) -> None:
        if len(heap) < EXTREMES:
            heapq.heappush(heap, (value, image_id))
        else:
            heapq.heappushpop(heap, (value, image_id))


def _iou_in_truth(matrix: np.ndarray) -> np.ndarray:
    """IoU of the classes that occur in the truth of a confusion matrix (K, K)."""
    truth = matrix.sum(1)
    return class_scores(matrix.diagonal(), truth, matrix.sum(0))["IoU"][truth > 0]
