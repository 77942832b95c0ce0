"""The transform of evaluation: scale an image to fit, place it at the top left and pad it.

Training does the same by the albumentations pipelines of `data.transforms`. Importing albumentations takes a second, so
images without labels, as in prediction, are transformed here; the results are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np

from data.batch import Sample
from data.resizing import Fill, interpolation_at, placed, resize


class Letterbox:
    """Scales the image to fit into `size`, places it at the top left, and pads it. Nothing is random.

    Args:
        size: (height, width) of the network's input, px.
        fill: value of each channel in the padding: RGB in 0..255, or stored values of other images. A mask is `IGNORE`
            there.
    """

    def __init__(self, size: tuple[int, int], fill: Fill) -> None:
        self.size, self.fill = size, fill

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample in network pixels."""
        if len(sample.boxes) or sample.mask is not None:
            return self._pipeline(sample, seed)
        image = sample.image
        height, width = image.shape[:2]
        fit = min(self.size[0] / height, self.size[1] / width)
        out = placed(height, self.size[0], fit)[2], placed(width, self.size[1], fit)[2]
        scale = out[1] / width, out[0] / height
        padded = np.empty((*self.size, image.shape[2]), image.dtype)
        padded[:] = np.array(self.fill, image.dtype)
        padded[: out[0], : out[1]] = resize(image, out, interpolation_at(scale))
        return replace(sample, image=padded, scale=scale)

    @cached_property
    def _pipeline(self) -> Callable[[Sample, int], Sample]:
        from data.transforms import ScaleJitterCrop, Transform

        return Transform(ScaleJitterCrop(self.size), [], self.fill, min_visibility=0.0)


class ImageLetterbox(Letterbox):
    """`Letterbox` for the image only. The mask stays in original pixels, because predictions are scored there."""

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Transform image and boxes to network pixels."""
        return replace(super().__call__(replace(sample, mask=None), seed), mask=sample.mask)
