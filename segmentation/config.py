"""Settings of the segmentation commands. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from backbones.errors import UserError, unknown_name
from backbones.scaling import scale_of
from engine import config as engine

NAME, METRIC = "segmentation", "mIoU"
PRESETS = Path(__file__).parent / "presets"
LOSSES = ("ce", "dice", "focal", "lovasz")


@dataclass
class MaskTrainData(engine.TrainData):
    """Which images, and how they are read."""

    ignore_index: int | None = None
    """Value in the masks of pixels that belong to no class, besides ADE20K's 0."""


@dataclass
class MaskEvalData(engine.EvalData):
    """Which images, and how they are read."""

    ignore_index: int | None = None
    """Value in the masks of pixels that belong to no class; by default as trained."""


@dataclass
class TrainConfig(engine.TrainConfig):
    """Train a segmentation network."""

    decoder: str = "bifpn"
    """What makes pixels of the pyramid: bifpn, unet, fpn, deeplabv3plus, pspnet, upernet or segformer."""
    phi: int | str = 0
    """Compound coefficient of EfficientDet's decoder and of the input size: 0 to 7, 7x, lite0 to lite4."""
    eval_size: int | str | None = None
    """Size that whole images are fitted to in evaluation, N or HxW; by default image_size, the size of the crops."""
    lr: float = 4e-3
    """Peak learning rate."""
    backbone_lr: float = 0.25
    """Factor on the learning rate of a backbone that starts from weights."""
    schedule: Literal["cosine", "poly"] = "cosine"
    """How the learning rate falls: along a cosine, or as the 0.9th power of what is left of the run."""
    losses: list[str] = field(default_factory=lambda: ["ce", "lovasz"])
    """What is minimised: any of ce, dice, focal and lovasz, each perhaps with a weight, such as lovasz=0.5."""
    label_smoothing: float = 0.0
    """Share of each label that cross entropy spreads over all classes."""
    hard_pixels: float = 1.0
    """Share of the pixels, those with the largest loss, that cross entropy is taken over."""
    jitter: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale, relative to the image fitting the input."""
    max_share: float = 0.75
    """Largest share of one class in a crop; crops beyond it are drawn anew, up to ten times."""
    vflip: bool = False
    """Also flip images upside down, where up and down mean nothing."""
    data: MaskTrainData = field(default_factory=MaskTrainData)

    def check(self) -> None:
        """Raise UserError for values that no run could use."""
        super().check()
        scale_of(self.phi)
        parse_losses(self.losses)
        for name in ("hard_pixels", "max_share"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"--{name} {getattr(self, name)} must be above 0 and at most 1")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label_smoothing {self.label_smoothing} must be at least 0 and below 1")
        if not 0 < self.jitter[0] <= self.jitter[1]:
            raise UserError(f"--jitter {self.jitter} must be two positive numbers, the smaller one first")
        if self.eval_size is not None:
            engine.parse_size(self.eval_size)


@dataclass
class Looks:
    """How often, and how large, an image is looked at."""

    scales: list[float] = field(default_factory=lambda: [1.0])
    """Sizes that each image is seen at, relative to the input size; the probabilities are averaged."""
    flip: bool = False
    """See each image mirrored as well."""
    slide: bool = False
    """Slide a window of the training's size over the image, which is fitted to the input size, times each scale."""

    def check_looks(self) -> None:
        """Raise UserError for scales that no image could be seen at."""
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales):
            raise UserError(f"--scales {self.scales} must be one number or more, each from 0.1 to 10")


@dataclass
class EvalConfig(engine.EvalConfig, Looks):
    """Score a segmentation network on whole images at their original size."""

    data: MaskEvalData = field(default_factory=MaskEvalData)


@dataclass
class PredictConfig(engine.PredictConfig, Looks):
    """Find the class of every pixel of images."""

    opacity: float = 0.6
    """Of the colours laid over the image: 0 shows the image alone, 1 the classes alone."""


def parse_losses(losses: Sequence[str]) -> dict[str, float]:
    """`["ce", "lovasz=0.5"]` -> {"ce": 1.0, "lovasz": 0.5}. Raises UserError for anything else."""
    weights: dict[str, float] = {}
    for loss in losses:
        name, equals, weight = loss.partition("=")
        if name not in LOSSES:
            raise unknown_name("loss", name, LOSSES)
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError:
            weights[name] = 0.0
        if not 0 < weights[name] < float("inf"):
            raise UserError(f"--losses {loss}: the weight must be a positive number, as in {name}=0.5")
    if not weights:
        raise UserError(f"--losses needs at least one of {', '.join(LOSSES)}")
    return weights
