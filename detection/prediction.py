"""The objects found in one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from detection.draw import draw_boxes

MIN_SCORE = 0.3  # lowest score that is drawn and printed


@dataclass(frozen=True, repr=False)
class DetectionResult:
    """Objects in one image, best first.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the image.
        scores: (N,) float32, in 0..1.
        labels: (N,) int64, indices into `classes`.
        classes: names of all classes.
    """

    image: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

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
        height, width = self.image.shape[:2]
        shown = int((self.scores >= MIN_SCORE).sum())
        lines = [f"{shown} objects with a score of {MIN_SCORE} or more in {width} x {height} pixels, of {len(self)}"]
        for name, score, box in zip(self.names[:shown], self.scores, self.boxes, strict=False):
            lines.append(f"  {name} {score:.2f} at ({', '.join(f'{side:.1f}' for side in box)})")
        return "\n".join(lines)
