"""The objects detected in one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from detection.config import MIN_SCORE
from detection.draw import draw_boxes
from engine.prediction import ImageResult


@dataclass(frozen=True, repr=False, eq=False)
class DetectionResult(ImageResult):
    """Objects in one image, sorted by descending score.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        classes: class names of the model.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the image.
        scores: (N,) float32, in 0..1.
        labels: (N,) int64, indices into `classes`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    @property
    def names(self) -> list[str]:
        """Class name of each object."""
        return [self.classes[label] for label in self.labels]

    def __len__(self) -> int:
        return len(self.boxes)

    def plot(self, min_score: float = MIN_SCORE) -> Image.Image:
        """The image with boxes, names and scores of all objects of at least `min_score`. Small images are enlarged."""
        selected = self.scores >= min_score
        return Image.fromarray(
            draw_boxes(self.image, self.boxes[selected], self.labels[selected], self.classes, self.scores[selected])
        )

    def _scaled(self, width: int, height: int) -> dict[str, Any]:
        x, y = width / self.image.shape[1], height / self.image.shape[0]
        return {"boxes": self.boxes * np.array([x, y, x, y], np.float32)}

    def __repr__(self) -> str:
        """The objects with a score of at least `MIN_SCORE`, one per line, and the number of other objects."""
        selected = np.flatnonzero(self.scores >= MIN_SCORE)
        others = len(self) - len(selected)
        rest = f"; {others} more with a score below {MIN_SCORE}" if others else ""
        lines = [f"{_count(len(selected))} in {self.size}{rest}"]
        for i in selected:
            corners = ", ".join(f"{side:.1f}" for side in self.boxes[i])
            lines.append(f"  {self.classes[self.labels[i]]} {self.scores[i]:.2f} at ({corners})")
        return "\n".join(lines)


def _count(objects: int) -> str:
    return f"{objects or 'no'} object{'' if objects == 1 else 's'}"
