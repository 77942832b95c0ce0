"""Colours of classes in pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

# Saturation and value of lines on photographs, and of areas next to each other.
BRIGHT = ((0.75, 0.95),)
VARIED = ((0.8, 0.95), (0.55, 0.8), (0.9, 0.6))


def class_colors(count: int, shades: Sequence[tuple[float, float]] = BRIGHT) -> np.ndarray:
    """(count, 3) uint8 RGB. Hues differ by the golden ratio, so that consecutive colours differ clearly.

    Args:
        count: number of colours.
        shades: pairs of saturation and value in 0..1, which the colours use in turn.
    """
    colors = [colorsys.hsv_to_rgb((0.58 + i * 0.618034) % 1, *shades[i % len(shades)]) for i in range(count)]
    return np.round(255 * np.array(colors).reshape(-1, 3)).astype(np.uint8)
