"""What the evaluators of all tasks have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from data.batch import Batch


class Evaluator(Protocol):
    """Accumulates the predictions for a data set and computes scores from them."""

    def reset(self) -> None:
        """Discard all predictions."""

    def update(self, predictions: Any, batch: Batch) -> None:
        """Add the predictions of one batch."""

    @property
    def per_class(self) -> dict[str, float]:
        """The headline metric of each class, a fraction in 0..1."""

    def class_table(self) -> dict[str, dict[str, float]]:
        """Scores of each class, fractions in 0..1, and its number of labels."""

    def compute(self) -> dict[str, float]:
        """Metric name -> fraction in 0..1 over all images since `reset`; NaN if the metric is undefined."""

    def state(self) -> Any:
        """All predictions since `reset`, as plain values and arrays, for another process."""

    def merge(self, states: Sequence[Any]) -> None:
        """Replace the predictions by those of these states, in this order."""
