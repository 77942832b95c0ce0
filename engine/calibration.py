"""Calibration: is a prediction with confidence p correct with probability p? Used by all tasks.

The reliability diagram and the expected calibration error (ECE) are those of Guo et al., arXiv:1706.04599: there are 15
bins of equal width, bin m holds the predictions with a confidence in ((m - 1) / 15, m / 15], and ECE is the mean over
all predictions of |accuracy - mean confidence| of their bin. The largest such difference of a bin is the MCE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

BINS = 15  # arXiv:1706.04599, section 5


@dataclass(frozen=True)
class Reliability:
    """Sums over the predictions in each of `BINS` bins of confidence.

    Attributes:
        count: (BINS,) number of predictions.
        confidence: (BINS,) sum of their confidences, each in 0..1.
        correct: (BINS,) number of correct predictions.
    """

    count: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray

    @classmethod
    def of(cls, confidence: np.ndarray, correct: np.ndarray) -> Reliability:
        """Count (N,) confidences in 0..1 and (N,) bool, whether the predictions are correct."""
        confidence = np.asarray(confidence, np.float64)
        index = np.searchsorted(np.arange(1, BINS) / BINS, confidence, side="left")
        sums = (np.bincount(index, weights, BINS) for weights in (None, confidence, np.asarray(correct, np.float64)))
        return cls(*sums)

    def __add__(self, other: Reliability) -> Reliability:
        """Of the predictions of both."""
        return Reliability(self.count + other.count, self.confidence + other.confidence, self.correct + other.correct)

    @property
    def accuracies(self) -> np.ndarray:
        """(BINS,) share of correct predictions, in 0..1; NaN for an empty bin."""
        return self._means(self.correct)

    @property
    def confidences(self) -> np.ndarray:
        """(BINS,) mean confidence, in 0..1; NaN for an empty bin."""
        return self._means(self.confidence)

    @property
    def ece(self) -> float:
        """Expected calibration error, in 0..1; NaN without predictions."""
        total = self.count.sum()
        return float(np.abs(self.correct - self.confidence).sum() / total) if total else float("nan")

    @property
    def mce(self) -> float:
        """Largest |accuracy - mean confidence| of a bin, in 0..1; NaN without predictions."""
        gaps = np.abs(self.accuracies - self.confidences)[self.count > 0]
        return float(gaps.max()) if len(gaps) else float("nan")

    def document(self) -> dict[str, Any]:
        """The content of `calibration.json`. Means of empty bins are NaN."""
        return {
            "ECE": self.ece,
            "MCE": self.mce,
            "predictions": int(self.count.sum()),
            "bins": [
                {
                    "from": index / BINS,
                    "to": (index + 1) / BINS,
                    "count": int(self.count[index]),
                    "confidence": float(self.confidences[index]),
                    "accuracy": float(self.accuracies[index]),
                }
                for index in range(BINS)
            ],
        }

    def _means(self, sums: np.ndarray) -> np.ndarray:
        return np.divide(sums, self.count, out=np.full(BINS, np.nan), where=self.count > 0)
