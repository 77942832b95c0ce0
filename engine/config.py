"""What every task's train, eval and predict commands can be told. Torch-free, so that `--help` is quick.

Each field's sentence is its help text. The defaults are the fine-tuning recipe: what short schedules from ImageNet
weights were measured to want. A task's presets override them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, Self

from backbones.errors import UserError
from engine.schema import RENAMED_DATA

Precision = Literal["fp32", "bf16", "fp16"]
Protocol = Literal["finetune", "linear", "frozen", "scratch"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]


@dataclass
class DataConfig:
    """Which images, and how they are read."""

    root: str | None = None
    """Folder of the data set; without it, the embedded demo scenes."""
    workers: int | None = None
    """Loader processes; by default what suits the machine's cores."""
    skip_bad: int = 0
    """How many unreadable images to leave out and report before giving up."""


@dataclass
class TrainData(DataConfig):
    """Which images, and how they are read."""

    fraction: float = 1.0
    """Share of the training images to use, drawn with the seed."""
    holdout: float = 0.0
    """Share of the training images, drawn with the seed, to score on in place of the validation split."""
    cached_augmentations: int = 0
    """In linear and frozen training: augmented forms of each image whose features are computed once; epochs use them in
    turn. 0 draws new augmentations in every epoch."""

    def trained_on(self) -> tuple[float, float]:
        """From where to where, in the order that the seed gives the training images, they are trained on."""
        return 0.0, self.fraction * (1 - self.holdout)

    def scored_on(self) -> tuple[str, tuple[float, float]]:
        """The split that is scored during training, and the part of it: none of it is trained on."""
        return ("train", (1 - self.holdout, 1.0)) if self.holdout else ("val", (0.0, 1.0))


@dataclass
class EvalData(DataConfig):
    """Which images, and how they are read."""

    split: str = "val"
    """Split to score: the folder and annotation name, such as val or test."""


@dataclass
class TrainConfig:
    """Settings of `train`."""

    backbone: str = "tf_efficientnet_lite0"
    """Network to build on: any name of `python -m backbones`, or module:function for one of your own."""
    pretrained: bool | str = True
    """Weights to start from: true for published ones, false for none, or a file or run folder."""
    protocol: Protocol = "finetune"
    """What is trained: all of it, only the last layer (linear), all but the backbone (frozen), all without weights."""
    image_size: int | str | None = None
    """Side of the square input in pixels, or HxW."""
    freeze_stride: int = 0
    """In fine-tuning, stem and stages up to the map of this stride stay as pretrained; 0 trains all of them."""
    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 8
    """Images in each step."""
    lr: float = 1e-3
    """Peak learning rate."""
    backbone_lr: float = 1.0
    """Factor on the learning rate of a backbone that starts from weights."""
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    """Update rule."""
    weight_decay: float = 1e-4
    """Decay of convolution and linear weights; biases and norms are left alone."""
    warmup_epochs: float = 1.0
    """Epochs over which the learning rate rises linearly, before it falls along a cosine."""
    ema_decay: float = 0.99
    """Decay of the weight average that is evaluated and saved; 0 turns it off."""
    norm_momentum: float = 0.1
    """Share of each batch in the running statistics of batch norm; small values need long schedules."""
    clip: float = 10.0
    """Largest norm of the gradient; 0 leaves it alone."""
    accumulate: int = 1
    """Batches whose gradients are summed before each step."""
    eval_every: int = 0
    """Epochs between evaluations; 0 chooses about six in the run. The last epoch is always evaluated."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    precision: Precision = "fp32"
    """Arithmetic of the networks."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    output: str | None = None
    """Folder of the run; by default a new one under runs/TASK."""
    resume: str | None = None
    """Run folder to continue, with its own settings."""
    logger: list[Tracker] = field(default_factory=lambda: ["tensorboard"])
    """Trackers that get losses and scores beside metrics.csv, such as tensorboard mlflow wandb."""
    data: TrainData = field(default_factory=TrainData)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The settings that `asdict` made `values` of, in this version or an earlier one."""
        values = cls.upgrade(values)
        config = cls(**{name: value for name, value in values.items() if name != "data"})
        config.data = type(config.data)(**values["data"])
        return config

    @classmethod
    def upgrade(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that an earlier version stored, in the names and with the meaning of this one."""
        data = {RENAMED_DATA.get(name, name): value for name, value in values["data"].items()}
        return {**values, "data": data}

    def check(self) -> None:
        """Raise UserError for values that no run could use."""
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("eval_every", 0), ("clip", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)} is too small: at least {least}")
        if not self.lr > 0:
            raise UserError(f"--lr {self.lr} must be positive")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"--ema_decay {self.ema_decay} must be at least 0 and below 1")
        if not 0 < self.data.fraction <= 1:
            raise UserError(f"--data.fraction {self.data.fraction} must be above 0 and at most 1")
        if not 0 <= self.data.holdout < 1:
            raise UserError(f"--data.holdout {self.data.holdout} must be at least 0 and below 1")
        if self.data.cached_augmentations < 0:
            raise UserError(f"--data.cached_augmentations {self.data.cached_augmentations} is too small: at least 0")
        if self.data.cached_augmentations and self.protocol not in ("linear", "frozen"):
            raise UserError(
                f"--data.cached_augmentations {self.data.cached_augmentations} caches features of a frozen backbone: "
                f"it goes with --protocol linear or frozen, not {self.protocol}"
            )
        if self.data.cached_augmentations and self.data.skip_bad:
            raise UserError(
                "--data.cached_augmentations caches features for later trainings, which could not report skipped "
                "images: --data.skip_bad must be 0"
            )
        if self.protocol in ("linear", "frozen") and self.pretrained is False:
            raise UserError(
                f"--protocol {self.protocol} trains on top of weights: it cannot go with --pretrained false"
            )
        if self.image_size is not None:
            parse_size(self.image_size)
        for name in self.logger:
            spec = find_spec(name)
            if spec is None or spec.origin is None:  # the folders that mlflow and wandb write look like empty packages
                raise UserError(f"--logger {name} is not installed: python -m pip install 'backbone-swap[track]'")


@dataclass
class ScoreConfig:
    """What `eval` and `predict` share."""

    checkpoint: str | None = None
    """Run folder, or checkpoint file; by default the latest run of this task."""
    backbone: str | None = None
    """Instead of a checkpoint: score this network's published weights."""
    image_size: int | str | None = None
    """Side of the square input in pixels, or HxW; by default as trained."""
    batch_size: int = 8
    """Images in each step."""
    precision: Precision = "fp32"
    """Arithmetic of the networks."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, mps."""


@dataclass
class EvalConfig(ScoreConfig):
    """Settings of `eval`."""

    output: str | None = None
    """Folder for metrics.json and per-image results; nothing is written without it."""
    data: EvalData = field(default_factory=EvalData)


@dataclass
class PredictConfig(ScoreConfig):
    """Settings of `predict`."""

    images: str = ""
    """Image file, or folder of images."""
    output: str = "predictions"
    """Folder for the results."""
    pictures: bool = True
    """Draw what is found on every image."""


def parse_size(size: int | str) -> tuple[int, int]:
    """`320` -> (320, 320); `"480x640"` -> (480, 640), height first. Raises UserError for anything else."""
    sides = str(size).lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 32 <= int(side) <= 8192 for side in sides):
        raise UserError(f"--image_size {size} is not understood: N or HxW, in pixels, each side from 32 to 8192")
    return int(sides[0]), int(sides[-1])
