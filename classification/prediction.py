"""The class of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from classification.classes import readable
from classification.draw import draw_scores
from classification.evaluator import TOP


@dataclass(frozen=True, repr=False)
class ClassificationResult:
    """Class probabilities of one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        probabilities: (K,) float32, in 0..1, in the order of `classes`.
        classes: names of all classes.
    """

    image: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The likeliest class."""
        return self.classes[int(self.probabilities.argmax())]

    def top(self, count: int = TOP) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities, best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in best]

    def plot(self) -> Image.Image:
        """The image beside its likeliest classes; small images are enlarged."""
        names, shares = zip(*self.top(), strict=True)
        return Image.fromarray(draw_scores(self.image, readable(names), list(shares), None))

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        lines = [f"{self.name}, an image of {width} x {height} pixels"]
        return "\n".join([*lines, *(f"  {name} {100 * share:.1f}%" for name, share in self.top())])
