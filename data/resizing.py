"""Resize and flip arrays of any number of channels."""

from __future__ import annotations

import cv2
import numpy as np

AREA_BELOW = 0.5  # bilinear interpolation reads 2 x 2 pixels: below this scale it skips pixels, which causes aliasing
AT_ONCE = 4  # channels that OpenCV resizes at once

Fill = tuple[float, ...]  # a value per channel


def interpolation_at(scale: tuple[float, float]) -> int:
    """OpenCV's filter that resizes images by the factors `scale` without aliasing."""
    return cv2.INTER_AREA if min(scale) < AREA_BELOW else cv2.INTER_LINEAR


def placed(length: int, limit: int, scale: float, position: float = 0.0) -> tuple[int, int, int]:
    """Along one axis: start and end of the window in source pixels, and its output length; `position` is in [0, 1)."""
    window = min(length, max(1, round(limit / scale)))
    out = limit if window < length else min(limit, max(1, round(length * scale)))
    start = int(position * (length - window + 1))
    return start, start + window, out


def resize(array: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """(H, W) or (H, W, C) of any number of channels -> the same with (height, width) `size`, by `cv2.resize`."""
    if array.ndim == 2 or array.shape[2] == 3:
        return cv2.resize(array, size[::-1], interpolation=interpolation)
    parts = [
        cv2.resize(np.ascontiguousarray(array[..., start : start + AT_ONCE]), size[::-1], interpolation=interpolation)
        for start in range(0, array.shape[2], AT_ONCE)
    ]
    return np.concatenate([part if part.ndim == 3 else part[..., None] for part in parts], axis=2)


def flip(array: np.ndarray, axis: int) -> np.ndarray:
    """(H, W) or (H, W, C), flipped as `cv2.flip` does: 1 left to right, 0 top to bottom, -1 both."""
    return cv2.flip(array, axis).reshape(array.shape)
