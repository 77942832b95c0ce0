"""The objects found in one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from detection.draw import draw_boxes
from engine.prediction import ImageResult

MIN_SCORE = 0.3  # lowest score that is drawn and printed


@dataclass(frozen=True, repr=False, eq=False)
class DetectionResult(ImageResult):
    """Objects in one image, best first.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        classes: names of all classes.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the image.
        scores: (N,) float32, in 0..1.
        labels: (N,) int64, indices into `classes`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.boxes)

    def plot(self, min_score: float = MIN_SCORE) -> Image.Image:
        """The image with the objects of at least this score drawn on it; small images are enlarged."""
        shown = self.scores >= min_score
        return Image.fromarray(
            draw_boxes(self.image, self.boxes[shown], self.labels[shown], self.classes, self.scores[shown])
        )

    def __repr__(self) -> str:
        """The objects with a score of at least `MIN_SCORE`, one a line, and how many more there are."""
        shown = np.flatnonzero(self.scores >= MIN_SCORE)
        weak = len(self) - len(shown)
        lines = [
            f"{_count(len(shown))} in {self.size}" + (f"; {weak} more with a score below {MIN_SCORE}" if weak else "")
        ]
        for i in shown:
            corners = ", ".join(f"{side:.1f}" for side in self.boxes[i])
            lines.append(f"  {self.classes[self.labels[i]]} {self.scores[i]:.2f} at ({corners})")
        return "\n".join(lines)


def _count(objects: int) -> str:
    return f"{objects or 'no'} object{'' if objects == 1 else 's'}"
