"""Transforms from images to the network's input: timm's evaluation crop, and random crops for training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from data.batch import Sample
from data.channels import Channels
from data.color import Color, color_matrix
from data.resizing import AREA_BELOW, Fill, flip, resize
from engine.config import parse_size

if TYPE_CHECKING:
    from torchvision.transforms import v2

    from backbones.provenance import Provenance

Policy = Literal["none", "randaugment", "autoaugment"]

# torchvision's references/classification: 2 operations of magnitude 9 of 30, as in arXiv:1909.13719 for ResNet-50.
RANDAUGMENT = {"num_ops": 2, "magnitude": 9}
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
TRIES, ASPECT = 10, (3 / 4, 4 / 3)  # for random crops; aspect is width / height


class EvalCrop:
    """The evaluation of published weights: resize the shorter side to `size` / `crop_pct`, then crop the centre.

    Args:
        size: (height, width) of the result in pixels.
        crop_pct: side of the crop relative to the resized image, in 0..1.
        interpolation: "bicubic" or "bilinear", by Pillow, which averages all pixels when it shrinks. OpenCV does not.
        crop_mode: timm's "center", "squash", which changes the aspect ratio, or "border", which pads.
        mean: RGB of the padding, in 0..1.
        channels: of images that are not 8-bit RGB. Pillow has no such images: torch resizes them, by the same filters.
    """

    def __init__(
        self,
        size: tuple[int, int],
        crop_pct: float,
        interpolation: str,
        crop_mode: str = "center",
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        channels: Channels | None = None,
    ) -> None:
        self._bands: BandsCrop | None = None
        if channels is not None:
            self._bands = BandsCrop(size, crop_pct, interpolation, crop_mode, channels.fill)
            return
        self._steps: list[Callable[[Any], Any]] = []
        if crop_mode == "center" and size[0] == size[1] and crop_pct <= 1 and interpolation in FILTERS:
            self._steps.append(CentreCrop(size[0], math.floor(size[0] / crop_pct), FILTERS[interpolation]))
            return
        from timm.data import create_transform  # takes seconds to import

        # Without the last step, which converts the image to a tensor.
        self._steps += create_transform(
            size, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode, mean=mean, normalize=False
        ).transforms[:-1]

    @classmethod
    def of(cls, settings: dict[str, Any]) -> EvalCrop:
        """The crop for the settings that `preprocessing` returns."""
        return cls(
            tuple(settings["size"]),
            settings["crop_pct"],
            settings["interpolation"],
            settings["crop_mode"],
            tuple(settings["mean"]),
            Channels.stored(settings),
        )

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Replace the sample's image by the crop. Nothing is random."""
        if self._bands is not None:
            return replace(sample, image=self._bands(sample.image))
        image = Image.fromarray(sample.image)
        for step in self._steps:
            image = step(image)
        return replace(sample, image=np.asarray(image))


class CentreCrop:
    """The square crop of timm and torchvision, by the same calls of Pillow.

    Args:
        side: of the crop, px.
        shorter: side of the resized image, px, at least as large.
        interpolation: filter of Pillow.
    """

    def __init__(self, side: int, shorter: int, interpolation: Image.Resampling) -> None:
        self.side, self.shorter, self.interpolation = side, shorter, interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        """The centre of the resized image."""
        longer = int(self.shorter * max(image.size) / min(image.size))
        size = (self.shorter, longer) if image.width <= image.height else (longer, self.shorter)
        if image.size != size:
            image = image.resize(size, self.interpolation)
        left, top = (round((length - self.side) / 2) for length in size)
        return image.crop((left, top, left + self.side, top + self.side))


class BandsCrop:
    """The crop of `EvalCrop` for images (H, W, C) of any number and type of channels.

    Args:
        size, crop_pct, interpolation, crop_mode: see `EvalCrop`.
        fill: value of each channel where the resized image is smaller than `size`.
    """

    def __init__(
        self, size: tuple[int, int], crop_pct: float, interpolation: str, crop_mode: str, fill: tuple[float, ...]
    ) -> None:
        self.size, self.crop_mode, self.interpolation, self.fill = size, crop_mode, interpolation, fill
        self.resized = [math.floor(side / crop_pct) for side in size]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) -> (*size, C) of the same type."""
        ratios = [wanted / side for wanted, side in zip(self.resized, image.shape[:2], strict=True)]
        if self.crop_mode != "squash":
            ratios = [min(ratios) if self.crop_mode == "border" else max(ratios)] * 2
        height, width = (max(1, round(side * ratio)) for side, ratio in zip(image.shape[:2], ratios, strict=True))
        x = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        x = F.interpolate(x, (height, width), mode=self.interpolation, antialias=True)[0].permute(1, 2, 0)
        resized = x.numpy()
        if image.dtype.kind == "u":
            resized = resized.round().clip(0, np.iinfo(image.dtype).max)
        crop = np.empty((*self.size, image.shape[2]), image.dtype)
        crop[:] = np.array(self.fill, image.dtype)
        (into_y, from_y), (into_x, from_x) = (
            _centred(wanted, side) for wanted, side in zip(self.size, (height, width), strict=True)
        )
        crop[into_y, into_x] = resized[from_y, from_x]
        return crop


def _centred(wanted: int, side: int) -> tuple[slice, slice]:
    """Along one axis: where the image lies in the crop, and which part of the image that is."""
    length = min(wanted, side)
    into, start = (wanted - length) // 2, (side - length) // 2
    return slice(into, into + length), slice(start, start + length)


class TrainCrop:
    """A random crop with an aspect ratio from 3/4 to 4/3, with flips, an augmentation policy and colour jitter.

    OpenCV resizes it: by averaging if it shrinks to less than half, else by interpolation. This takes little time
    compared with decoding the images.

    Args:
        size: (height, width) of the result in pixels.
        interpolation: "bicubic" or "bilinear".
        min_crop: smallest area of the crop, as a fraction of the image.
        color: factors of brightness, contrast and saturation are drawn from 1 +- this.
        augment: AutoAugment (arXiv:1805.09501) or RandAugment (arXiv:1909.13719), as in torchvision.
        fill: RGB in 0..255 for corners that a policy leaves empty.
        vflip: also flip vertically, with probability 0.5.
    """

    def __init__(
        self,
        size: tuple[int, int],
        interpolation: str,
        min_crop: float,
        color: float,
        augment: Policy,
        fill: Fill,
        vflip: bool = False,
    ) -> None:
        self.size, self.min_crop, self.vflip = size, min_crop, vflip
        self._interpolation = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
        self._color = Color(color, color, color, hue=0.0) if color else None
        self._policy: v2.Transform | None = None
        if augment == "none":
            return
        from torchvision.transforms import InterpolationMode, v2  # takes a second to import

        policy: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": list(fill)}
        if augment == "randaugment":
            self._policy = v2.RandAugment(**RANDAUGMENT, **policy)
        elif augment == "autoaugment":
            self._policy = v2.AutoAugment(**policy)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Replace the sample's image by a random crop. All random draws depend only on `seed`."""
        draw = random.Random(seed)
        top, left, height, width = random_crop(sample.image.shape[:2], self.min_crop, draw)
        shrinks = min(self.size[0] / height, self.size[1] / width) < AREA_BELOW
        interpolation = cv2.INTER_AREA if shrinks else self._interpolation
        part = sample.image[top : top + height, left : left + width]
        image = resize(part, self.size, interpolation)
        if draw.random() < 0.5:
            image = flip(image, 1)
        if self.vflip and draw.random() < 0.5:
            image = flip(image, 0)
        if self._policy is not None:
            with seeded(seed):
                image = np.asarray(self._policy(Image.fromarray(image)))
        if self._color is not None:
            image = cv2.transform(image, color_matrix(self._color, draw))
        return replace(sample, image=image)


def random_crop(size: tuple[int, ...], min_share: float, draw: random.Random) -> tuple[int, int, int, int]:
    """Top, left, height and width in px of a crop with an aspect ratio from 3/4 to 4/3.

    As in Inception's training (arXiv:1409.4842) and torchvision's RandomResizedCrop: ten tries, then the largest
    centred crop within these aspect ratios.

    Args:
        size: (height, width) of the image in px.
        min_share: smallest area of the crop, as a fraction of the image.
        draw: random generator.
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
    """The preprocessing of the published evaluation of a network's weights.

    Args:
        name: name of the network.
        provenance: of its weights.
        image_size: input size, N or HxW in px; by default that of the weights.

    Returns:
        mean, std, size (height, width), interpolation, crop_pct and crop_mode, see `EvalCrop`.
    """
    from timm.models import get_pretrained_cfg

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
    """In this context torch's CPU generator starts from `seed`. At the end its state is restored.

    torchvision's transforms draw from this generator.

    Args:
        seed: 0 to 2^64 - 1.
    """
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(state)
