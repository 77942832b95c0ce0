"""Top-1, top-5, precision, recall and F1, and confusion matrix over a data set, from exact counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from classification.metrics import classification_scores
from data.batch import Batch
from engine.class_scores import class_scores

TOP = 5


class AccuracyEvaluator:
    """Counts correct predictions. Ties are broken as by `torch.topk`. Unreadable images do not count.

    Args:
        classes: names of the K classes of the data set.
        outputs: index of the model's output for each class. All outputs compete, also those of other classes.
        total: number of the model's outputs O.

    Attributes:
        confusion: (K, O) int64, number of images by true class (rows) and output with the highest score (columns).
    """

    def __init__(self, classes: Sequence[str], outputs: Sequence[int], total: int) -> None:
        self.classes = list(classes)
        self.outputs = np.asarray(outputs, np.int64)
        self.total = total
        self.reset()

    def reset(self) -> None:
        """Discard all predictions."""
        self.confusion = np.zeros((len(self.classes), self.total), np.int64)
        self._top5 = 0
        self._rows: list[np.ndarray] = []
        self._probabilities: list[np.ndarray] = []

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Add a batch.

        Args:
            predictions: (B, O) log-probabilities.
            batch: with class indices `labels` (B, 1).
        """
        readable = batch.readable.cpu()
        values, best = predictions.topk(min(TOP, self.total), dim=1)
        best_outputs = best.cpu()[readable].numpy()
        labels = batch.labels[:, 0].cpu()[readable].numpy()
        np.add.at(self.confusion, (labels, best_outputs[:, 0]), 1)
        self._top5 += int((best_outputs == self.outputs[labels, None]).any(1).sum())
        ids = batch.image_ids.cpu()[readable].numpy()
        self._rows.append(np.stack([ids, labels, best_outputs[:, 0]], axis=1))
        self._probabilities.append(values[:, 0].exp().cpu()[readable].double().numpy())

    def state(self) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """All predictions: `confusion`, the number of images with the class in the top 5, `rows`, `probabilities`."""
        return self.confusion, self._top5, self.rows, self.probabilities

    def merge(self, states: Sequence[tuple[np.ndarray, int, np.ndarray, np.ndarray]]) -> None:
        """Replace the predictions by those of these states."""
        confusions, top5, self._rows, self._probabilities = (list(values) for values in zip(*states, strict=True))
        self.confusion, self._top5 = np.sum(confusions, axis=0), sum(top5)

    @property
    def rows(self) -> np.ndarray:
        """(N, 3) int64, one row per image: image id, class index, output with the highest score."""
        return np.concatenate(self._rows) if self._rows else np.zeros((0, 3), np.int64)

    @property
    def probabilities(self) -> np.ndarray:
        """(N,) probability of the output with the highest score, in 0..1, in the order of `rows`."""
        return np.concatenate(self._probabilities) if self._probabilities else np.zeros(0)

    @property
    def per_class(self) -> dict[str, float]:
        """Top-1 accuracy of each class, in 0..1. NaN for classes without images."""
        return {name: row["recall"] for name, row in self.class_table().items()}

    def class_table(self) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 of each class, in 0..1, and its number of images. NaN where undefined."""
        columns = class_scores(*self._counts())
        names = ("precision", "recall", "F1")
        return {
            name: {column: float(columns[column][i]) for column in names} | {"images": int(count)}
            for i, (name, count) in enumerate(zip(self.classes, self.confusion.sum(1), strict=True))
        }

    def compute(self) -> dict[str, float]:
        """`top1`, `top5` and the other metrics of `classification_scores`.

        Fractions in 0..1, or NaN without images. With fewer than five outputs, `top5` is 1.
        """
        count = int(self.confusion.sum())
        scores = {name: float(value) for name, value in classification_scores(*self._counts()).items()}
        top5 = self._top5 / count if count else float("nan")
        return {"top1": scores.pop("top1"), "top5": top5, **scores}

    def _counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(K,) images of each class: classified correctly, in all, and classified as the class."""
        right = self.confusion[np.arange(len(self.classes)), self.outputs]
        return right, self.confusion.sum(1), self.confusion.sum(0)[self.outputs]
