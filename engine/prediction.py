"""What the results of all tasks share."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, repr=False, eq=False)
class ImageResult:
    """A model's result for one image. Results are equal if all their arrays and names are.

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

    __hash__ = None  # type: ignore[assignment]  # as arrays have none

    @property
    def size(self) -> str:
        """Width and height, for people."""
        height, width = self.image.shape[:2]
        return f"{width} x {height} pixels"
