"""Boxes around the shapes that annotation tools write. Coordinates are pixels; boxes are x1 y1 x2 y2."""

from __future__ import annotations

import math
from collections.abc import Iterable

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def around(points: Iterable[Point]) -> Box:
    """The smallest box that contains the points. NaN if a coordinate is NaN."""
    columns = list(zip(*points, strict=True))
    if any(math.isnan(value) for column in columns for value in column):
        return (math.nan,) * 4
    (x1, y1), (x2, y2) = (min(c) for c in columns), (max(c) for c in columns)
    return x1, y1, x2, y2


def circle(center: Point, radius: float) -> Box:
    """The box around a circle."""
    return center[0] - radius, center[1] - radius, center[0] + radius, center[1] + radius


def ellipse(center: Point, radii: Point, degrees: float = 0.0) -> Box:
    """The box around an ellipse that is turned clockwise, as seen on the screen, around its centre."""
    angle = _radians(degrees)
    width = math.hypot(radii[0] * math.cos(angle), radii[1] * math.sin(angle))
    height = math.hypot(radii[0] * math.sin(angle), radii[1] * math.cos(angle))
    return center[0] - width, center[1] - height, center[0] + width, center[1] + height


def turned(box: Box, degrees: float, pivot: Point | None = None) -> Box:
    """The box around a box that is turned clockwise, as seen on the screen, around `pivot`, by default its centre."""
    if not degrees:
        return box
    x1, y1, x2, y2 = box
    px, py = pivot or ((x1 + x2) / 2, (y1 + y2) / 2)
    angle = _radians(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = [(x - px, y - py) for x in (x1, x2) for y in (y1, y2)]
    return around((px + x * cosine - y * sine, py + x * sine + y * cosine) for x, y in corners)


def _radians(degrees: float) -> float:
    return math.radians(degrees) if math.isfinite(degrees) else math.nan
