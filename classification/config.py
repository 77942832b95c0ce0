"""Settings of the classification commands. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from backbones.errors import UserError
from data.options import ClassOptions
from engine import config as engine
from engine.schema import VERSION_1

NAME, METRIC = "classification", "top1"
METRICS = ("top1", "top5", "balanced", "balanced_accuracy", "precision", "recall", "F1")
PRESETS = Path(__file__).parent / "presets"


@dataclass
class ClassTrainData(engine.TrainData, ClassOptions):
    """Which images to read, and how."""


@dataclass
class ClassEvalData(engine.EvalData, ClassOptions):
    """Which images to read, and how."""


@dataclass
class TrainConfig(engine.TrainConfig):
    """Train a classifier."""

    version_1: ClassVar[frozenset[str]] = VERSION_1 | {"first_layer_lr", "stochastic_depth"}
    caches_features: ClassVar[bool] = True
    metrics: ClassVar[tuple[str, ...]] = METRICS

    neck: str | None = None
    """Neck before the pooling: bifpn, fpn or panet. By default none, with the network's own head."""
    batch_size: int = 32
    """Number of images per batch."""
    backbone_lr: float = 0.3
    """Factor on the learning rate of a pretrained backbone."""
    class_layer: Literal["published", "zero"] = "published"
    """Initial weights of a new class layer: published computes them from the class layer of the published weights
    (weight imprinting), zero starts from zero."""
    schedule: Literal["cosine", "exponential"] = "cosine"
    """Learning rate schedule after the warm-up: a cosine to 0, or exponential, a decay of 3% every 2.4 epochs."""
    label_smoothing: float = 0.1
    """Label smoothing: fraction of the target that is spread evenly over all classes."""
    augment: Literal["none", "randaugment", "autoaugment"] = "none"
    """Augmentation policy, in addition to crop, flip and colour jitter. --data.augment replaces all of these."""
    min_crop: float = 0.35
    """Smallest area of a random crop, as a fraction of the image."""
    color: float = 0.2
    """Strength of the colour jitter: brightness, contrast and saturation change by a factor of 1 +- this."""
    vflip: bool = False
    """Also flip images vertically at random, for data without a fixed orientation."""
    mixup: float = 0.0
    """Alpha of the beta distribution of MixUp, which blends pairs of images. 0 disables it."""
    cutmix: float = 0.0
    """Alpha of the beta distribution of CutMix, which pastes a rectangle of another image. 0 disables it."""
    data: ClassTrainData = field(default_factory=ClassTrainData)

    def has_neck(self) -> bool:
        """Whether the network has a neck instead of its own head."""
        return self.neck is not None

    def check(self) -> None:
        """Raise UserError for values out of range and for settings that contradict each other."""
        super().check()
        for name, least, most in (
            ("label_smoothing", 0.0, 0.99),
            ("min_crop", 0.01, 1.0),
            ("color", 0.0, 1.0),
            ("mixup", 0.0, 100.0),
            ("cutmix", 0.0, 100.0),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"--{name} {value} is out of range: it must be from {least:g} to {most:g}")
        if self.data.augment != "recipe" and self.augment != "none":
            raise UserError(
                f"--augment {self.augment} is part of the task's own augmentation, which --data.augment replaces: pass "
                "--augment none"
            )
        if self.data.cached_augmentations and (self.mixup or self.cutmix):
            raise UserError(
                "--data.cached_augmentations caches the features of single images: --mixup and --cutmix, which blend "
                "several, must be 0"
            )


@dataclass
class EvalConfig(engine.EvalConfig):
    """Evaluate a classifier: top-1, top-5, precision, recall and F1 of each class, and confusion matrix."""

    pretrained: bool | str = True
    """Weights of --backbone: true for the published weights, or a weight file."""
    batch_size: int = 32
    """Number of images per batch."""
    data: ClassEvalData = field(default_factory=ClassEvalData)


@dataclass
class PredictConfig(engine.PredictConfig):
    """Predict the class of images."""

    pretrained: bool | str = True
    """Weights of --backbone: true for the published weights, or a weight file."""
