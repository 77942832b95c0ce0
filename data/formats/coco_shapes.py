"""COCO's segmentations, polygons and run lengths, as flat arrays that are drawn one at a time.

Polygons are drawn by pycocotools, which defines their pixels. Its C code trusts its input, so all numbers are checked
before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

FARTHEST = 100_000  # px; a polygon with a larger coordinate is not meant in pixels
_CONTINUES, _SIGN, _DIGITS = 0x20, 0x10, 0x1F  # bits of a character of COCO's compressed run lengths, maskApi.c

Part = tuple[bool, np.ndarray]  # (is it a polygon, its x y x y ... in px or its run lengths by column)


@dataclass(frozen=True)
class Shapes:
    """N shapes of one or more parts each.

    Attributes:
        starts: (N + 1,) first part of each shape.
        part_starts: (P + 1,) first number of each part.
        is_polygon: (P,) bool, whether a part is a polygon; otherwise it is run lengths.
        numbers: (M,) float64, the parts' numbers.
    """

    starts: np.ndarray
    part_starts: np.ndarray
    is_polygon: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, shapes: Sequence[Sequence[Part]]) -> Shapes:
        """Shapes from lists of their parts."""
        parts = [part for shape in shapes for part in shape]
        return cls(
            starts=np.cumsum([0, *(len(shape) for shape in shapes)]),
            part_starts=np.cumsum([0, *(len(numbers) for _, numbers in parts)]),
            is_polygon=np.array([is_polygon for is_polygon, _ in parts], bool),
            numbers=np.concatenate([np.zeros(0), *(numbers for _, numbers in parts)]),
        )

    def draw(self, index: int, height: int, width: int) -> np.ndarray:
        """(height, width) bool, the pixels of a shape."""
        pixels = np.zeros((height, width), bool)
        for part in range(self.starts[index], self.starts[index + 1]):
            numbers = self.numbers[self.part_starts[part] : self.part_starts[part + 1]]
            if self.is_polygon[part]:
                (encoded,) = coco_mask.frPyObjects([numbers.tolist()], height, width)
                pixels |= coco_mask.decode(encoded).astype(bool)
            else:
                runs = numbers.astype(np.int64)
                pixels |= np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
        return pixels


def parse_shape(value: Any, height: int, width: int) -> list[Part]:
    """The parts of a segmentation; none if it has no area or has impossible coordinates.

    Args:
        value: a list of polygons x y x y ..., one polygon, a list of points, or {"size", "counts"}.
        height, width: px, of the image.

    Raises ValueError with the problem if it is none of these.
    """
    if value is None or value == [] or value == {}:
        return []
    if isinstance(value, dict):
        return [(False, run_lengths(value, height, width).astype(np.float64))]
    if not isinstance(value, list):
        raise ValueError("is neither polygons nor run lengths")
    if all(isinstance(number, int | float) for number in value):
        value = [value]
    elif len(value) > 2 and all(isinstance(point, list) and len(point) == 2 for point in value):
        value = [[number for point in value for number in point]]
    return [(True, polygon) for numbers in value if (polygon := _polygon(numbers)) is not None]


def _polygon(numbers: Any) -> np.ndarray | None:
    """(2n,) x y x y ...; None for fewer than three points and for impossible coordinates."""
    if not isinstance(numbers, list):
        raise ValueError("has a polygon that is not a list of numbers")
    try:
        polygon = np.array(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("has a polygon that is not a list of numbers") from None
    if polygon.ndim != 1 or len(polygon) % 2:
        raise ValueError("has a polygon that is not a list of pairs x y")
    usable = len(polygon) >= 6 and np.isfinite(polygon).all() and np.abs(polygon).max() <= FARTHEST
    return polygon if usable else None


def area_of(parts: Sequence[Part]) -> float:
    """The number of pixels of run lengths, or the area of polygons in px^2; overlaps count twice."""
    total = 0.0
    for is_polygon, numbers in parts:
        if is_polygon:
            x, y = numbers[0::2], numbers[1::2]
            total += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
        else:
            total += float(numbers[1::2].sum())
    return total


def run_lengths(value: dict[str, Any], height: int, width: int) -> np.ndarray:
    """(n,) int64 run lengths along the columns, beginning with pixels outside of the shape.

    Raises ValueError if they are not those of an image of this size.
    """
    size, counts = value.get("size"), value.get("counts")
    if size != [height, width]:
        raise ValueError(f"has run lengths of size {str(size)[:40]}, but the image has [{height}, {width}]")
    if isinstance(counts, str):
        runs = _decompressed(counts)
    elif isinstance(counts, list) and all(isinstance(run, int) and 0 <= run <= height * width for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError("has counts that are not run lengths")
    if (runs < 0).any() or (runs > height * width).any() or math.fsum(runs) != height * width:
        raise ValueError(f"has run lengths that do not add up to {height} x {width} pixels")
    return runs


def _decompressed(text: str) -> np.ndarray:
    """(n,) int64 from COCO's compressed text: 5 bits per character, differences to the run before the last."""
    if not text or not text.isascii():
        raise ValueError("has counts that are not run lengths")
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & _CONTINUES) == 0)
    if (codes < 0).any() or (codes > 63).any() or not len(ends) or ends[-1] != len(codes) - 1:
        raise ValueError("has counts that are not run lengths")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 10:  # 50 bits; an image has fewer pixels
        raise ValueError("has counts that are not run lengths")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & _DIGITS) << (5 * place), starts)
    negative = (codes[ends] & _SIGN) != 0
    runs[negative] -= np.int64(1) << (5 * lengths[negative])
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
