"""The class of every pixel of one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from engine.prediction import ImageResult
from segmentation.draw import OPACITY, beside, legend, overlay, palette_of


@dataclass(frozen=True, repr=False, eq=False)
class SegmentationResult(ImageResult):
    """The classes of one image's pixels.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        classes: names of all classes.
        class_map: (H, W) int64, indices into `classes`, one for each pixel of the image.
    """

    class_map: np.ndarray

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image, in 0..1, of each class that occurs; the largest first."""
        counts = np.bincount(self.class_map.ravel(), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[i]: float(counts[i] / self.class_map.size) for i in order if counts[i]}

    def plot(self, opacity: float = OPACITY) -> Image.Image:
        """The image with the classes laid over it in colour, beside a legend; small images are enlarged.

        `opacity` of the colours is in 0..1.
        """
        palette = palette_of(self.classes)
        picture = overlay(self.image, self.class_map, palette, opacity)
        return Image.fromarray(
            beside([picture, legend([self.class_map.ravel()], self.classes, palette, picture.shape[0])])
        )

    def __repr__(self) -> str:
        """The classes that occur, the largest first, with their share of the image."""
        shares = self.shares
        lines = [f"{len(shares)} class{'' if len(shares) == 1 else 'es'} in {self.size}"]
        return "\n".join([*lines, *(f"  {name} {100 * share:.1f}%" for name, share in shares.items())])
