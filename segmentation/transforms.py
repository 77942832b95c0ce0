"""Transforms from images with class maps to the network's input, for training and evaluation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from data.batch import IGNORE
from data.resizing import Fill
from data.transforms import Color, ColorJitter, ScaleJitterCrop, Transform

STRONG = Color(0.3, 0.3, 0.3, 10.0)


class MixedCrop(ScaleJitterCrop):
    """`ScaleJitterCrop`, redrawn up to ten times if one class has more than `max_share` of the labelled pixels.

    Crops with only wall or road contribute little to training (`cat_max_ratio` of mmsegmentation's `RandomCrop`). If no
    crop of the ten is below that share, the one with the smallest share of its most frequent class is used: where
    objects are tiny, every crop is above `max_share`, and most random crops show no object.
    """

    TRIES = 10
    EVERY = 4  # px: the share is estimated from every fourth row and column

    def __init__(
        self,
        size: tuple[int, int],
        jitter: tuple[float, float],
        hflip: float = 0.0,
        vflip: float = 0.0,
        max_share: float = 0.75,
    ) -> None:
        super().__init__(size, jitter, hflip, vflip)
        self.max_share = max_share

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The parameters of the first crop with mixed classes, or of the most mixed one."""
        best, least = {}, math.inf
        for _ in range(self.TRIES):
            crop = super().get_params_dependent_on_data(params, data)
            x1, y1, x2, y2 = crop["window"]
            labels = data["mask"][y1 : y2 : self.EVERY, x1 : x2 : self.EVERY]
            counts = np.bincount(labels[labels != IGNORE], minlength=1)
            share = counts.max() / counts.sum() if counts.sum() else 1.0
            if share < least:
                best, least = crop, share
            if share <= self.max_share:
                break
        return best


def segmentation_train(
    size: tuple[int, int],
    jitter: tuple[float, float],
    fill: Fill,
    hflip: float = 0.5,
    vflip: float = 0.0,
    max_share: float = 0.75,
    color: Color | None = STRONG,
) -> Transform:
    """The transform for training: scale jitter, a crop with mixed classes, flips and colour jitter.

    Args:
        size: (height, width) of the crop in pixels.
        jitter: range of the random scale, relative to the scale at which the whole image fits `size`.
        fill: RGB in 0..255 outside the image. The mask is `IGNORE` there.
        hflip, vflip: probability of a horizontal and of a vertical flip.
        max_share: largest fraction of the labelled pixels for one class, see `MixedCrop`.
        color: strength of the colour jitter; None for none.
    """
    colors = [] if color is None else [ColorJitter(color)]
    return Transform(MixedCrop(size, jitter, hflip, vflip, max_share), colors, fill, min_visibility=0.0)
