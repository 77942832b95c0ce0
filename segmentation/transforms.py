"""How images with class maps become the network's input, in evaluation and in training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from data.batch import IGNORE, Sample
from data.transforms import Color, ColorJitter, Fill, ScaleJitterCrop, Transform

STRONG = Color(0.3, 0.3, 0.3, 10.0)


class MixedCrop(ScaleJitterCrop):
    """`ScaleJitterCrop`, drawn anew, up to ten times, while one class has more than `max_share` of the labelled pixels.

    Crops of nothing but wall or road teach little (`cat_max_ratio` of mmsegmentation's `RandomCrop`).
    """

    TRIES = 10
    EVERY = 4  # px along each side: the share is estimated from every 16th pixel

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
        """The first draw whose window is mixed enough, or the last."""
        for _ in range(self.TRIES):
            drawn = super().get_params_dependent_on_data(params, data)
            x1, y1, x2, y2 = drawn["window"]
            seen = data["mask"][y1 : y2 : self.EVERY, x1 : x2 : self.EVERY]
            counts = np.bincount(seen[seen != IGNORE], minlength=1)
            if counts.sum() and counts.max() <= self.max_share * counts.sum():
                break
        return drawn


class ImageLetterbox(Transform):
    """`letterbox` for the image alone: the mask stays in original pixels, where predictions are compared with it."""

    def __init__(self, size: tuple[int, int], fill: Fill) -> None:
        super().__init__(ScaleJitterCrop(size), [], fill, min_visibility=0.0)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The image in network pixels, everything else but boxes as it was."""
        return replace(super().__call__(replace(sample, mask=None), seed), mask=sample.mask)


def segmentation_train(
    size: tuple[int, int],
    jitter: tuple[float, float],
    fill: Fill,
    hflip: float = 0.5,
    vflip: float = 0.0,
    max_share: float = 0.75,
    color: Color | None = STRONG,
) -> Transform:
    """For training: scale jitter, crop without one class ruling it, flips, colour.

    `jitter` multiplies the scale at which the image fits `size` (height, width); `fill` is RGB in 0..255, and the mask
    there is `IGNORE`; `color=None` leaves colours alone.
    """
    colors = [] if color is None else [ColorJitter(color)]
    return Transform(MixedCrop(size, jitter, hflip, vflip, max_share), colors, fill, min_visibility=0.0)
