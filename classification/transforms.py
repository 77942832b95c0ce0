"""Image file to network input: timm's evaluation crop, to the pixel, and random crops keyed by one seed per sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.models import get_pretrained_cfg
from torchvision.transforms import InterpolationMode, v2

from backbones.provenance import Provenance
from data.batch import Sample
from experiments.engine.config import parse_size

Policy = Literal["none", "randaugment", "autoaugment"]

# torchvision's references/classification: 2 operations of magnitude 9 of 30, as in arXiv:1909.13719 for ResNet-50.
RANDAUGMENT = {"num_ops": 2, "magnitude": 9}


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

    Args:
        size: (height, width) of the result, px.
        interpolation: as in `EvalCrop`.
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
        policy: dict[str, Any] = {"interpolation": InterpolationMode.BILINEAR, "fill": list(fill)}
        steps: list[v2.Transform] = [
            v2.RandomResizedCrop(size, scale=(min_crop, 1.0), interpolation=InterpolationMode(interpolation)),
            v2.RandomHorizontalFlip(),
        ]
        if vflip:
            steps.append(v2.RandomVerticalFlip())
        if augment == "randaugment":
            steps.append(v2.RandAugment(**RANDAUGMENT, **policy))
        elif augment == "autoaugment":
            steps.append(v2.AutoAugment(**policy))
        if color:
            steps.append(v2.ColorJitter(color, color, color))
        self._steps = v2.Compose(steps)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """The sample with an image of `size`; equal seeds give equal images, whatever was drawn before."""
        with seeded(seed):
            image = self._steps(Image.fromarray(sample.image))
        return replace(sample, image=np.asarray(image))


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
