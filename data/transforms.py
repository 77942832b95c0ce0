"""Geometric and colour transforms of image, boxes and mask: albumentations pipelines with one seed per sample.

Every pipeline returns an image of exactly the requested size, with its content at the top left and the rest filled. The
letterbox of evaluation places images there too, so that training and evaluation use the same placement.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import albumentations as A
import cv2
import numpy as np

from data.batch import IGNORE, Sample
from data.color import Color, color_matrix
from data.compat import DualTransform, set_random_state
from data.resizing import Fill, flip, interpolation_at, placed, resize

MIN_SIDE = 1e-3  # px; thinner boxes have no area in float32, and albumentations fails on boxes without area


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
        x1, x2, out_width = placed(width, self.size[1], scale, draw.random())
        y1, y2, out_height = placed(height, self.size[0], scale, draw.random())
        return {
            "window": (x1, y1, x2, y2),
            "out": (out_height, out_width),
            "scale": (out_width / (x2 - x1), out_height / (y2 - y1)),
            "hflip": draw.random() < self.hflip,
            "vflip": draw.random() < self.vflip,
        }

    def apply(self, img: np.ndarray, *, scale: tuple[float, float], **params: Any) -> np.ndarray:
        """(H, W, C) -> the same with the size `out`."""
        return self._warp(img, interpolation_at(scale), **params)

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
        for axis, length, start, end, is_flipped in ((0, shape[1], x1, x2, hflip), (1, shape[0], y1, y2, vflip)):
            sides = (bboxes[:, [axis, axis + 2]] * length - start) / (end - start)
            boxes[:, [axis, axis + 2]] = 1 - sides[:, ::-1] if is_flipped else sides
        return boxes


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
