"""The result of `predict` for one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from engine.prediction import ImageResult
from segmentation.draw import OPACITY, beside, legend, overlay, palette_of


@dataclass(frozen=True, repr=False, eq=False)
class SegmentationResult(ImageResult):
    """The class of every pixel of one image.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        classes: names of all classes.
        class_map: (H, W) int64, index into `classes` for each pixel of the image.
    """

    class_map: np.ndarray

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of the image, in 0..1, of each class that occurs in it. The largest comes first."""
        counts = np.bincount(self.class_map.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[i]: float(counts[i] / self.class_map.size) for i in order if counts[i]}

    def plot(self, opacity: float = OPACITY) -> Image.Image:
        """Draw the class colours over the image, next to a legend. Small images are enlarged.

        Args:
            opacity: opacity of the colours, in 0..1.
        """
        palette = palette_of(self.classes)
        picture = overlay(self.image, self.class_map, palette, opacity)
        return Image.fromarray(
            beside([picture, legend([self.class_map.ravel()], self.classes, palette, picture.shape[0])])
        )

    def _scaled(self, width: int, height: int) -> dict[str, Any]:
        rows = (np.arange(height) + 0.5) * self.image.shape[0] / height
        columns = (np.arange(width) + 0.5) * self.image.shape[1] / width
        return {"class_map": self.class_map[rows.astype(int)[:, None], columns.astype(int)]}

    def __repr__(self) -> str:
        """The classes that occur, the largest first, with their share of the image."""
        shares = self.shares
        lines = [f"{len(shares)} class{'' if len(shares) == 1 else 'es'} in {self.size}"]
        return "\n".join([*lines, *(f"  {name} {100 * share:.1f}%" for name, share in shares.items())])
