"""The result of `predict` for one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from classification.classes import readable
from classification.draw import draw_scores
from classification.evaluator import TOP
from engine.prediction import ImageResult


@dataclass(frozen=True, repr=False, eq=False)
class ClassificationResult(ImageResult):
    """Class probabilities of one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        classes: names of all K classes.
        probabilities: (K,) float32, in 0..1, in the order of `classes`.
    """

    probabilities: np.ndarray

    @property
    def name(self) -> str:
        """The most probable class."""
        return self.classes[int(self.probabilities.argmax())]

    def top(self, count: int = TOP) -> list[tuple[str, float]]:
        """The `count` most probable classes with their probabilities, the most probable first."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in best]

    def plot(self) -> Image.Image:
        """Draw the image next to its most probable classes. Small images are enlarged."""
        names, shares = zip(*self.top(), strict=True)
        return Image.fromarray(draw_scores(self.image, readable(names), list(shares), None))

    def __repr__(self) -> str:
        """The most probable classes, best first. ImageNet's synsets are shown by their first word."""
        names, probabilities = zip(*self.top(), strict=True)
        shown = readable(names)
        lines = [f"{shown[0]}, {self.size}"]
        for name, probability in zip(shown, probabilities, strict=True):
            lines.append(f"  {name} {100 * probability:.1f}%")
        return "\n".join(lines)
