"""The base class of the results of all tasks."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import cv2
import numpy as np

from data.bands import displayable


@dataclass(frozen=True, repr=False, eq=False)
class ImageResult:
    """A model's result for one image. Results are equal if all their fields are equal.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        classes: names of all classes.
    """

    image: np.ndarray
    classes: tuple[str, ...]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageResult) or type(other) is not type(self):
            return NotImplemented
        return all(np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    __hash__ = None  # type: ignore[assignment]  # like numpy arrays

    @property
    def size(self) -> str:
        """Width and height as text, such as "640 x 480 pixels"."""
        height, width = self.image.shape[:2]
        return f"{width} x {height} pixels"

    def shrunk(self, side: int) -> Self:
        """The result for a copy of the image whose longer side has at most `side` px, to draw large images fast."""
        height, width = self.image.shape[:2]
        scale = side / max(height, width)
        if scale >= 1:
            return self
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(displayable(self.image), size, interpolation=cv2.INTER_AREA)
        return replace(self, image=image, **self._scaled(*size))

    def _scaled(self, width: int, height: int) -> dict[str, Any]:
        """The fields in pixels, by name, for a copy of the image of this size."""
        return {}
