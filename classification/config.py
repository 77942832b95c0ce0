"""Settings of the classification commands. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbones.errors import UserError
from engine import config as engine

NAME, METRIC = "classification", "top1"
PRESETS = Path(__file__).parent / "presets"


@dataclass
class TrainConfig(engine.TrainConfig):
    """Train a classifier."""

    neck: str | None = None
    """What fuses the pyramid before pooling: bifpn, fpn or panet; none takes the network's own head."""
    batch_size: int = 32
    """Images in each step."""
    backbone_lr: float = 0.3
    """Factor on the learning rate of a backbone that starts from weights."""
    class_layer: Literal["published", "zero"] = "published"
    """Where a new class layer starts: at what published weights take its classes for, or at zero."""
    schedule: Literal["cosine", "exponential"] = "cosine"
    """How the learning rate falls: along a cosine to 0, or by 3% every 2.4 epochs."""
    first_layer_lr: float = 1.0
    """Factor on the learning rate of the backbone's first layer; those between follow a geometric series to 1."""
    label_smoothing: float = 0.1
    """Share of the target that is spread evenly over all classes."""
    stochastic_depth: float | None = None
    """Rate at which the last residual branch is dropped, falling to 0 at the first; by default the network's own."""
    augment: Literal["none", "randaugment", "autoaugment"] = "none"
    """Policy of random distortions on top of crop, flip and colour."""
    min_crop: float = 0.35
    """Least share of the image's area in a random crop."""
    color: float = 0.2
    """Strength of the random change of brightness, contrast and saturation."""
    vflip: bool = False
    """Also flip images upside down, where up and down mean nothing."""
    mixup: float = 0.0
    """Alpha of the Beta distribution by which pairs of images are blended; 0 turns it off."""
    cutmix: float = 0.0
    """Alpha of the Beta distribution of the area pasted from another image; 0 turns it off."""

    def check(self) -> None:
        """Raise UserError for values that no run could use."""
        super().check()
        for name, least, most in (
            ("label_smoothing", 0.0, 0.99),
            ("min_crop", 0.01, 1.0),
            ("color", 0.0, 1.0),
            ("mixup", 0.0, 100.0),
            ("cutmix", 0.0, 100.0),
            ("first_layer_lr", 1e-6, 1.0),
            ("stochastic_depth", 0.0, 0.99),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"--{name} {value} is out of range: from {least:g} to {most:g}")
        if self.data.cached_augmentations and (self.mixup or self.cutmix):
            raise UserError(
                "--data.cached_augmentations caches single images: --mixup and --cutmix, which blend several, must be 0"
            )


@dataclass
class EvalConfig(engine.EvalConfig):
    """Score a classifier: top-1, top-5, each class, and the confusion matrix."""

    pretrained: bool | str = True
    """Weights of --backbone: true for the published ones, or a file of them."""
    batch_size: int = 32
    """Images in each step."""


@dataclass
class PredictConfig(engine.PredictConfig):
    """Name what is in images."""

    pretrained: bool | str = True
    """Weights of --backbone: true for the published ones, or a file of them."""
