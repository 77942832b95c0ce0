"""Image file to network input: timm's evaluation crop, to the pixel, and random crops keyed by one seed per sample."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import cv2
import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.models import get_pretrained_cfg
from torchvision.transforms import InterpolationMode, v2

from backbones.provenance import Provenance
from data.batch import Sample
from data.transforms import AREA_BELOW, Color, color_matrix
from engine.config import parse_size

Policy = Literal["none", "randaugment", "autoaugment"]

# torchvision's references/classification: 2 operations of magnitude 9 of 30, as in arXiv:1909.13719 for ResNet-50.
RANDAUGMENT = {"num_ops": 2, "magnitude": 9}
TRIES, ASPECT = 10, (3 / 4, 4 / 3)  # of random crops, width over height


class EvalCrop:
    """The published evaluation: resize so that the shorter side is `size` / `crop_pct`, then take the centre.

    Args:
        size: (height, width) of the result, px.
        crop_pct: share of the resized image's side that is kept.
        interpolation: "bicubic" or "bilinear", by Pillow: it averages all pixels that it shrinks, OpenCV does not.
        crop_mode: timm's "center", or "squash", which gives up the aspect ratio, or "border", which pads.
        mean: RGB of that padding, in 0..1.
    """

    def __init__(
        self,
        size: tuple[int, int],
        crop_pct: float,
        interpolation: str,
        crop_mode: str = "center",
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    ) -> None:
        # The last step would turn the picture into a tensor.
        self._steps = create_transform(
            size, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode, mean=mean, normalize=False
        ).transforms[:-1]

    @classmethod
    def of(cls, settings: dict[str, Any]) -> EvalCrop:
        """From what `preprocessing` says."""
        return cls(
            tuple(settings["size"]),
            settings["crop_pct"],
            settings["interpolation"],
            settings["crop_mode"],
            tuple(settings["mean"]),
        )

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample with an image of `size`. Nothing is random; labels stay."""
        image = Image.fromarray(sample.image)
        for step in self._steps:
            image = step(image)
        return replace(sample, image=np.asarray(image))


class TrainCrop:
    """A random crop of random aspect (3/4 to 4/3), resized; flips, a policy of distortions, and colour.

    Resized by OpenCV, which averages where it shrinks by more than a half and otherwise interpolates: an epoch of
    crops costs little more than decoding its images.

    Args:
        size: (height, width) of the result, px.
        interpolation: "bicubic" or "bilinear".
        min_crop: least share of the image's area in the crop.
        color: factors of brightness, contrast and saturation are drawn from 1 +- this.
        augment: AutoAugment (arXiv:1805.09501) or RandAugment (arXiv:1909.13719), both as torchvision has them.
        fill: RGB in 0..255 for corners that a policy leaves empty.
        vflip: flip upside down as well.
    """

    def __init__(
        self,
        size: tuple[int, int],
        interpolation: str,
        min_crop: float,
        color: float,
        augment: Policy,
        fill: tuple[int, int, int],
        vflip: bool = False,
    ) -> None:
        self.size, self.min_crop, self.vflip = size, min_crop, vflip
        self._interpolation = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
        self._color = Color(color, color, color, hue=0.0) if color else None
        policy: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": list(fill)}
        self._policy: v2.Transform | None = None
        if augment == "randaugment":
            self._policy = v2.RandAugment(**RANDAUGMENT, **policy)
        elif augment == "autoaugment":
            self._policy = v2.AutoAugment(**policy)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample with an image of `size`; equal seeds give equal images, whatever was drawn before."""
        draw = random.Random(seed)
        top, left, height, width = random_crop(sample.image.shape[:2], self.min_crop, draw)
        shrinks = min(self.size[0] / height, self.size[1] / width) < AREA_BELOW
        interpolation = cv2.INTER_AREA if shrinks else self._interpolation
        part = sample.image[top : top + height, left : left + width]
        image = cv2.resize(part, self.size[::-1], interpolation=interpolation)
        if draw.random() < 0.5:
            image = cv2.flip(image, 1)
        if self.vflip and draw.random() < 0.5:
            image = cv2.flip(image, 0)
        if self._policy is not None:
            with seeded(seed):
                image = np.asarray(self._policy(Image.fromarray(image)))
        if self._color is not None:
            image = cv2.transform(image, color_matrix(self._color, draw))
        return replace(sample, image=image)


def random_crop(size: tuple[int, ...], min_share: float, draw: random.Random) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop with `min_share` of the area or more, its aspect from 3/4 to 4/3.

    As in Inception's training (arXiv:1409.4842) and torchvision's RandomResizedCrop: ten tries, then the largest
    centred crop of such an aspect.
    """
    height, width = size
    for _ in range(TRIES):
        area = height * width * draw.uniform(min_share, 1.0)
        aspect = math.exp(draw.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            return draw.randint(0, height - high), draw.randint(0, width - wide), high, wide
    wide, high = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def preprocessing(name: str, provenance: Provenance, image_size: int | str | None = None) -> dict[str, Any]:
    """How the published evaluation of a network's weights turns an image into its input."""
    published = get_pretrained_cfg(name)
    return {
        "mean": list(provenance.mean),
        "std": list(provenance.std),
        "size": list(parse_size(image_size) if image_size else provenance.input_size),
        "interpolation": provenance.interpolation,
        "crop_pct": provenance.crop_pct,
        "crop_mode": published.crop_mode if published is not None else "center",
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's CPU generator, which torchvision's transforms draw from, starts at `seed`; then it is as before.

    Args:
        seed: 0 to 2^64 - 1.
    """
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(state)
