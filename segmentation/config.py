"""Settings of the segmentation commands. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from backbones.errors import UserError, unknown_name
from backbones.scaling import scale_of
from data.options import MaskOptions
from engine import config as engine

NAME, METRIC = "segmentation", "mIoU"
METRICS = ("mIoU", "pixel_accuracy", "mean_accuracy", "fwIoU", "Dice", "precision", "recall")
PRESETS = Path(__file__).parent / "presets"
LOSSES = ("ce", "dice", "focal", "lovasz")


@dataclass
class MaskTrainData(engine.TrainData, MaskOptions):
    """Which images to read, and how."""


@dataclass
class MaskEvalData(engine.EvalData, MaskOptions):
    """Which images to read, and how."""


@dataclass
class TrainConfig(engine.TrainConfig):
    """Train a segmentation network."""

    metrics: ClassVar[tuple[str, ...]] = METRICS

    decoder: str = "bifpn"
    """Decoder: bifpn, unet, fpn, deeplabv3plus, pspnet, upernet or segformer."""
    phi: int | str = 0
    """Compound coefficient, 0 to 7, 7x or lite0 to lite4. It sets the size of the bifpn decoder and the input size."""
    eval_size: int | str | None = None
    """Input size in evaluation, N or HxW: whole images are resized to fit it. By default image_size, the crop size."""
    lr: float = 4e-3
    """Peak learning rate."""
    backbone_lr: float = 0.5
    """Factor on the learning rate of a pretrained backbone."""
    schedule: Literal["cosine", "poly"] = "cosine"
    """Learning rate schedule after the warm-up: cosine, or poly, a polynomial with power 0.9."""
    losses: list[str] = field(default_factory=lambda: ["ce", "lovasz"])
    """Losses to add up: any of ce (cross entropy), dice, focal and lovasz. A weight is optional, as in lovasz=0.5."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross entropy, from 0 to below 1."""
    hard_pixels: float = 1.0
    """Fraction of the pixels, those with the largest loss, that the cross entropy averages. 1 uses all pixels."""
    jitter: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale, relative to the scale at which the whole image fits the input."""
    max_share: float = 0.75
    """Largest fraction of the labelled pixels in a crop that one class may have. Crops above it are redrawn. If ten are
    above it, the one with the least is used."""
    vflip: bool = False
    """Also flip images vertically at random, for data without a fixed orientation."""
    data: MaskTrainData = field(default_factory=MaskTrainData)

    def check(self) -> None:
        """Raise UserError for values out of range and for settings that contradict each other."""
        super().check()
        scale_of(self.phi)
        losses = parse_losses(self.losses)
        if self.class_weights != "none" and not losses.keys() & {"ce", "focal"}:
            raise UserError(
                f"--class_weights applies to the losses ce and focal: --losses {' '.join(self.losses)} has neither"
            )
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
class AugmentationConfig:
    """Settings of test-time augmentation."""

    scales: list[float] = field(default_factory=lambda: [1.0])
    """Test-time augmentation: scales relative to the input size. The class probabilities of all scales are averaged."""
    flip: bool = False
    """Test-time augmentation: also predict the horizontally flipped image."""
    slide: bool = False
    """Predict overlapping windows of the training's crop size instead of the whole image."""

    def check_scales(self) -> None:
        """Raise UserError for scales out of range."""
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales):
            raise UserError(f"--scales {self.scales} must be one or more numbers from 0.1 to 10")


@dataclass
class EvalConfig(engine.EvalConfig, AugmentationConfig):
    """Evaluate a segmentation network on whole images at their original size."""

    data: MaskEvalData = field(default_factory=MaskEvalData)


@dataclass
class PredictConfig(engine.PredictConfig, AugmentationConfig):
    """Predict the class of every pixel of images."""

    opacity: float = 0.6
    """Opacity of the class colours in pictures: 0 shows only the image, 1 only the classes."""


def parse_losses(losses: Sequence[str]) -> dict[str, float]:
    """Weights by loss: `["ce", "lovasz=0.5"]` -> {"ce": 1.0, "lovasz": 0.5}.

    Raises UserError for an unknown loss, a weight that is not positive, and an empty list.
    """
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
            raise UserError(f"loss '{loss}' must have a positive number as its weight, as in {name}=0.5")
    if not weights:
        raise UserError(f"`losses` must contain at least one of {', '.join(LOSSES)}", settings=("losses",))
    return weights
