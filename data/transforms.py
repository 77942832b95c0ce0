"""Geometric and colour transforms of image, boxes and mask: albumentations pipelines with one seed per sample.

Every pipeline returns an image of exactly the requested size, with its content at the top left and the rest filled. The
letterbox of evaluation places images there too, so that training and evaluation use the same placement.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import albumentations as A
import cv2
import numpy as np

from data.batch import IGNORE, Sample
from data.compat import DualTransform, set_random_state

AREA_BELOW = 0.5  # bilinear interpolation reads 2 x 2 pixels: below this scale it skips pixels, which causes aliasing
MIN_SIDE = 1e-3  # px; thinner boxes have no area in float32, and albumentations fails on boxes without area

Fill = tuple[float, ...]  # a value per channel
AT_ONCE = 4  # channels that OpenCV resizes at once


class ScaleJitterCrop(DualTransform):
    """Resize, crop and flip in one pass that reads only the source pixels of the crop.

    The fitting scale is the largest at which the whole image fits into `size`; the scale is a random factor times that.
    If the scaled image is larger than `size`, a random window is cropped. If it is smaller, the output is smaller than
    `size`, and the next transform pads it. The window starts at whole source pixels, and the scale is recomputed per
    axis from the rounded sizes, so that boxes are mapped exactly. `jitter=(1, 1)` without flips is a letterbox without
    padding.

    After a call `params` holds `window` (x1, y1, x2, y2 in source pixels), `out` (height, width) and `scale` (x, y).

    Args:
        size: (height, width) of the output, px.
        jitter: range of the random factor.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
    """

    def __init__(
        self,
        size: tuple[int, int],
        jitter: tuple[float, float] = (1.0, 1.0),
        hflip: float = 0.0,
        vflip: float = 0.0,
    ) -> None:
        super().__init__(p=1.0)
        self.size, self.jitter, self.hflip, self.vflip = size, jitter, hflip, vflip

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw scale, window and flips. The number of random draws does not depend on the image."""
        draw = self.py_random
        height, width = params["shape"][:2]
        fit = min(self.size[0] / height, self.size[1] / width)
        scale = fit * draw.uniform(*self.jitter)
        x1, x2, out_width = _axis(width, self.size[1], scale, draw.random())
        y1, y2, out_height = _axis(height, self.size[0], scale, draw.random())
        return {
            "window": (x1, y1, x2, y2),
            "out": (out_height, out_width),
            "scale": (out_width / (x2 - x1), out_height / (y2 - y1)),
            "hflip": draw.random() < self.hflip,
            "vflip": draw.random() < self.vflip,
        }

    def apply(self, img: np.ndarray, *, scale: tuple[float, float], **params: Any) -> np.ndarray:
        """(H, W, C) -> the same with the size `out`."""
        return self._warp(img, cv2.INTER_AREA if min(scale) < AREA_BELOW else cv2.INTER_LINEAR, **params)

    def apply_to_mask(self, mask: np.ndarray, **params: Any) -> np.ndarray:
        """(H, W) class map, sampled at the nearest pixel centre -> the same with the size `out`."""
        return self._warp(mask, cv2.INTER_NEAREST_EXACT, **params)

    def _warp(
        self,
        array: np.ndarray,
        interpolation: int,
        *,
        window: tuple[int, int, int, int],
        out: tuple[int, int],
        hflip: bool,
        vflip: bool,
        **_: Any,
    ) -> np.ndarray:
        x1, y1, x2, y2 = window
        array = resize(array[y1:y2, x1:x2], out, interpolation)
        if hflip or vflip:
            array = flip(array, -1 if hflip and vflip else int(hflip))
        return array

    def apply_to_bboxes(
        self,
        bboxes: np.ndarray,
        *,
        shape: tuple[int, ...],
        window: tuple[int, int, int, int],
        hflip: bool,
        vflip: bool,
        **_: Any,
    ) -> np.ndarray:
        """(N, 4+) fractions of the source -> fractions of the output, outside of 0..1 where the window cuts a box."""
        x1, y1, x2, y2 = window
        boxes = bboxes.copy()
        for axis, length, start, end, flip in ((0, shape[1], x1, x2, hflip), (1, shape[0], y1, y2, vflip)):
            sides = (bboxes[:, [axis, axis + 2]] * length - start) / (end - start)
            boxes[:, [axis, axis + 2]] = 1 - sides[:, ::-1] if flip else sides
        return boxes


def _axis(length: int, limit: int, scale: float, position: float) -> tuple[int, int, int]:
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


class Pad(DualTransform):
    """Pads at the right and bottom, as albumentations' `PadIfNeeded`, for any number and type of channels."""

    def __init__(self, size: tuple[int, int], fill: Fill) -> None:
        super().__init__(p=1.0)
        self.size, self.fill = size, fill

    def apply(self, img: np.ndarray, **_: Any) -> np.ndarray:
        """(H, W, C) -> (*size, C)."""
        padded = np.empty((*self.size, img.shape[2]), img.dtype)
        padded[:] = np.array(self.fill, img.dtype)
        padded[: img.shape[0], : img.shape[1]] = img
        return padded

    def apply_to_mask(self, mask: np.ndarray, **_: Any) -> np.ndarray:
        """(H, W) class map -> `size`, padded with `IGNORE`."""
        padded = np.full(self.size, IGNORE, mask.dtype)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        return padded

    def apply_to_bboxes(self, bboxes: np.ndarray, *, shape: tuple[int, ...], **_: Any) -> np.ndarray:
        """(N, 4+) fractions of the image -> fractions of the padded image."""
        boxes = bboxes.copy()
        boxes[:, [0, 2]] *= shape[1] / self.size[1]
        boxes[:, [1, 3]] *= shape[0] / self.size[0]
        return boxes


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


class ColorJitter(A.ImageOnlyTransform):
    """Random colour change by `color_matrix`, as a step of a pipeline."""

    def __init__(self, color: Color) -> None:
        super().__init__(p=1.0)
        self.color = color

    def get_params(self) -> dict[str, Any]:
        """Draw the matrix."""
        return {"matrix": color_matrix(self.color, self.py_random)}

    def apply(self, img: np.ndarray, *, matrix: np.ndarray, **_: Any) -> np.ndarray:
        """(H, W, 3) uint8 -> the same shape, clipped to 0..255."""
        return cv2.transform(img, matrix)


class Transform:
    """An albumentations pipeline for `Sample`s. All random choices depend only on the seed of the call.

    Args:
        geometry: resize, crop and flip.
        colors: colour transforms, which follow.
        fill: value of each channel in the padding: RGB in 0..255, or stored values of other images.
        min_visibility: boxes of which a smaller fraction of the area remains are dropped.
    """

    def __init__(
        self, geometry: ScaleJitterCrop, colors: Sequence[A.BasicTransform], fill: Fill, min_visibility: float
    ) -> None:
        height, width = geometry.size
        is_rgb = len(fill) == 3 and max(fill) <= 255 and all(isinstance(value, int) for value in fill)
        pad: A.BasicTransform = Pad(geometry.size, fill)
        if is_rgb:
            pad = A.PadIfNeeded(
                height, width, position="top_left", border_mode=cv2.BORDER_CONSTANT, fill=fill, fill_mask=IGNORE
            )
        self._geometry = geometry
        self._compose = A.Compose(
            [geometry, *colors, pad],
            bbox_params=A.BboxParams(
                "pascal_voc",
                label_fields=["labels"],
                clip=True,
                filter_invalid_bboxes=True,
                min_visibility=min_visibility,
                min_width=MIN_SIDE,
                min_height=MIN_SIDE,
                check_each_transform=False,  # only `geometry` cuts boxes; checks after each step take longer than it
            ),
        )
        self._random = random.Random()

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample in network pixels. Equal seeds return equal results, independent of earlier calls."""
        set_random_state(self._compose, seed, self._random)
        targets: dict[str, Any] = {"image": sample.image, "bboxes": sample.boxes, "labels": sample.labels}
        if sample.mask is not None:
            targets["mask"] = sample.mask
        out = self._compose(**targets)
        return replace(
            sample,
            image=out["image"],
            scale=self._geometry.params["scale"],
            boxes=np.asarray(out["bboxes"], np.float32).reshape(-1, 4),
            labels=np.asarray(out["labels"], np.int64),
            mask=out.get("mask"),
        )
