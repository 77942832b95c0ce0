"""`errors.json` and `calibration.json` of a classification run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.calibration import Reliability

MOST = 100  # pairs of classes to list


def what_went_wrong(
    truth: Sequence[str], predicted: Sequence[str], confidence: np.ndarray, correct: np.ndarray
) -> dict[str, dict[str, Any]]:
    """The content of a run's result files on errors, by file name.

    `errors.json` has `confusions`, the most frequent pairs of a true and a wrongly predicted class with their number of
    `images`. `calibration.json` is `Reliability.document` of the most probable class.

    Args:
        truth, predicted: names of the true and of the most probable class of N images.
        confidence: (N,) probability of the most probable class, in 0..1.
        correct: (N,) bool.
    """
    pairs = Counter(pair for pair, right in zip(zip(truth, predicted, strict=True), correct, strict=True) if not right)
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:MOST]
    return {
        "errors.json": {
            "confusions": [{"class": true, "predicted": found, "images": count} for (true, found), count in ranked]
        },
        "calibration.json": Reliability.of(confidence, correct).document(),
    }
