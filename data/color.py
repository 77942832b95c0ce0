"""Random changes of brightness, contrast, saturation and hue, as one matrix."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Color:
    """Strength of the colour jitter: factors are drawn from 1 +- the value, hue rotations from +- `hue` degrees."""

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 5.0


# Saturation scales and hue rotates the chroma plane of YIQ (NTSC); luma does not change.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def color_matrix(color: Color, draw: random.Random) -> np.ndarray:
    """Random brightness, contrast (about 127.5), saturation and hue: one (3, 4) float32 matrix for `cv2.transform`."""
    brightness, contrast, saturation = (
        1 + draw.uniform(-strength, strength) for strength in (color.brightness, color.contrast, color.saturation)
    )
    angle = np.deg2rad(draw.uniform(-color.hue, color.hue))
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    chroma = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    shift = np.full((3, 1), 127.5 * (1 - contrast))
    return np.hstack([brightness * contrast * _FROM_YIQ @ chroma @ _TO_YIQ, shift]).astype(np.float32)
