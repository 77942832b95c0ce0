"""Settings that the train, eval and predict commands of all tasks share. Torch-free, so that `--help` is fast.

The sentence below each field is its help text. The defaults are the fine-tuning recipe: they scored best in short
trainings from ImageNet weights. Each task's presets override them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Self

from backbones.errors import UserError
from data.options import ReadOptions
from engine.schema import RENAMED_DATA, VERSION_1
from engine.setting_files import read_class_weights, read_pipeline

Precision = Literal["fp32", "bf16", "fp16"]
Protocol = Literal["finetune", "lora", "linear", "frozen", "scratch"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]
LORA_RANK = 8  # the default of PEFT's LoraConfig


@dataclass
class DataConfig(ReadOptions):
    """Which images to read, and how."""

    root: str | None = None
    """Folder of the data set, or its configuration file. By default the demo scenes, which are included."""
    workers: int | None = None
    """Number of data loader processes. By default it depends on the number of CPU cores."""
    skip_bad: int = 0
    """Largest number of unreadable images to skip. Each is reported; one more ends the command with an error."""


@dataclass
class TrainData(DataConfig):
    """Which images to read, and how."""

    fraction: float = 1.0
    """Fraction of the training images to use, a random sample that depends on the seed."""
    holdout: float = 0.0
    """Fraction of the training images to evaluate on instead of the validation split, a random sample that depends on
    the seed."""
    range: list[float] | None = None
    """With --data.channels or --data.bands: lowest and highest value, which become 0 and 1. By default 0 and 255 for
    images of 8 bits, 0 and 65535 for 16 bits, and otherwise the extremes of the training images."""
    mean: list[float] | None = None
    """With --data.channels or --data.bands: mean of each channel, for values in 0..1. By default that of the training
    images."""
    std: list[float] | None = None
    """With --data.channels or --data.bands: standard deviation of each channel, for values in 0..1. By default that of
    the training images."""
    augment: str | dict[str, Any] = "recipe"
    """Augmentation: recipe for that of the task, none to only resize images, or a YAML or JSON file with a pipeline
    that albumentations saved, which runs before images are resized."""
    balance: bool = False
    """Draw images with rare classes more often. Epochs keep their number of images. Classification draws all classes
    equally often; detection and segmentation use repeat factor sampling."""
    cached_augmentations: int = 0
    """Number of augmented versions of each image. The backbone's features of them are computed once and cached, and
    epochs use them in turn. Needs --protocol linear or frozen, and a task that supports it. 0 caches nothing, so that
    each epoch draws new augmentations."""


@dataclass
class EvalData(DataConfig):
    """Which images to read, and how."""

    split: str | None = None
    """Split to evaluate on: the name of its folder or annotation file, such as val or test; or FILE[:IMAGES]. By
    default the images that the training was scored on."""


@dataclass
class TrainConfig:
    """Settings of `train`, for all tasks."""

    metrics: ClassVar[tuple[str, ...]] = ()  # names of the task's metrics, the headline metric first
    version_1: ClassVar[frozenset[str]] = VERSION_1
    caches_features: ClassVar[bool] = False  # whether the task has --data.cached_augmentations

    backbone: str = "tf_efficientnet_lite0"
    """Backbone: a name that `python -m backbones` lists, or MODULE:FUNCTION for your own network."""
    pretrained: bool | str = True
    """Initial weights: true for published weights, false for random weights, or a weight file, a folder with one, or a
    run folder. A run of the same task is trained further."""
    protocol: Protocol = "finetune"
    """What to train: everything from pretrained weights (finetune), low-rank updates of the backbone and all other
    parts (lora), only the last layer (linear), everything except the backbone (frozen), or everything from random
    weights (scratch)."""
    lora_rank: int = LORA_RANK
    """Rank of the updates of --protocol lora."""
    image_size: int | str | None = None
    """Input size in pixels: N for a square, or HxW."""
    freeze_stride: int = 0
    """In fine-tuning, freeze the backbone's stem and its stages up to the feature map with this stride. In a plain
    transformer, 4, 8 and 16 freeze one, two and three thirds of the blocks. 0 freezes nothing."""
    epochs: int = 30
    """Number of passes over the training images."""
    batch_size: int = 8
    """Number of images per batch."""
    lr: float = 1e-3
    """Peak learning rate."""
    backbone_lr: float = 1.0
    """Factor on the learning rate of a pretrained backbone."""
    first_layer_lr: float = 1.0
    """Factor on the learning rate of the backbone's first layer. It rises geometrically with depth to 1 at the last
    layer. A decay of 0.75 per block over the 12 blocks of a ViT-B is 0.03."""
    stochastic_depth: float | None = None
    """Drop rate of stochastic depth at the backbone's last residual block. It rises linearly from 0 at the first block.
    By default the network's own rate."""
    checkpointing: bool = False
    """Gradient checkpointing of the backbone: less memory for more time, with the same results. Each block keeps only
    its input, and is computed again in the backward pass."""
    optimizer: Literal["adamw", "sgd", "rmsprop"] = "adamw"
    """Optimiser."""
    weight_decay: float = 1e-4
    """Weight decay of convolution and linear weights. Biases, normalisation layers, tokens and position embeddings have
    none."""
    warmup_epochs: float = 1.0
    """Number of epochs of linear learning rate warm-up, before the decay to 0 along a cosine."""
    ema_decay: float = 0.99
    """Decay of the exponential moving average of the weights. The averaged weights are evaluated and saved. 0 disables
    it."""
    class_weights: str | dict[str, float] = "none"
    """Weights of the classes in the loss: none, auto to compute them from the training labels, or a YAML, JSON or CSV
    file of class names and weights. Only their ratios matter."""
    norm_momentum: float = 0.1
    """Momentum of batch norm: the weight of each batch in the running statistics. Small values need long schedules."""
    clip: float = 10.0
    """Largest gradient norm; larger gradients are scaled down to it. 0 disables clipping."""
    accumulate: int | Literal["auto"] = 1
    """Number of batches whose gradients are accumulated before each optimiser step. auto: one batch, in micro-batches
    that fit in memory."""
    eval_every: int = 0
    """Number of epochs between evaluations. 0 evaluates about six times in the run. The last epoch is always
    evaluated."""
    monitor: str | None = None
    """Metric that selects the best epoch and that --patience watches. By default the task's headline metric; an unknown
    name lists all."""
    patience: int = 0
    """Stop after this number of evaluations in a row without a new best score. 0 trains all epochs."""
    seed: int = 0
    """Random seed for initialisation, order of images and augmentation."""
    precision: Precision = "fp32"
    """Floating-point precision of the network."""
    device: str = "auto"
    """Device to train on: cpu, cuda, cuda:N, mps, or auto for a GPU if there is one."""
    devices: int | Literal["auto"] = 1
    """Number of devices of this machine to train on, one process each, or auto for all of its GPUs. They share each
    batch of --batch_size images, so that the recipe does not depend on their number."""
    num_nodes: int = 1
    """Number of machines. With more than one, start the command on each of them with torchrun or srun."""
    sync_batchnorm: bool = False
    """Compute the statistics of batch norm over the images of all devices. Needs GPUs."""
    compile: bool = False
    """Compile the network with torch.compile. The first steps then take a minute longer."""
    output: str | None = None
    """Run folder to create. By default a new folder under runs/TASK."""
    resume: str | None = None
    """Run folder to resume. The run continues with its own settings. auto: that of `--output` if it has a run, else a
    new run there, so that the same command starts and resumes."""
    logger: list[Tracker] = field(default_factory=lambda: ["tensorboard"])
    """Experiment trackers to log losses and scores to, in addition to metrics.csv: tensorboard, mlflow, wandb."""
    data: TrainData = field(default_factory=TrainData)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from the dictionary that `asdict` returned for them, in this version or an earlier one."""
        values = cls.upgrade(values)
        config = cls(**{name: value for name, value in values.items() if name != "data"})
        config.data = type(config.data)(**values["data"])
        return config

    @classmethod
    def upgrade(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Convert settings that an earlier version stored to the names and meanings of this version."""
        data = {RENAMED_DATA.get(name, name): value for name, value in values["data"].items()}
        return {**values, "data": data}

    def with_files(self) -> Self:
        """The settings with the content of the files that they name instead of the files' names. Raises BadInput."""
        data = replace(self.data, augment=read_pipeline(self.data.augment))
        return replace(self, class_weights=read_class_weights(self.class_weights), data=data)

    @property
    def uses_published_weights(self) -> bool:
        """Whether the backbone starts from the weights that are published for it."""
        return self.pretrained is True and self.protocol != "scratch"

    @property
    def batches_per_step(self) -> int:
        """Number of batches of `batch_size` images for each optimiser step."""
        return 1 if self.accumulate == "auto" else self.accumulate

    def has_neck(self) -> bool:
        """Whether the network has a neck or decoder between backbone and last layer."""
        return True

    def check(self) -> None:
        """Raise UserError for values out of range and for settings that contradict each other."""
        if (isinstance(self.devices, int) and self.devices < 1) or self.num_nodes < 1:
            raise UserError(f"--devices {self.devices} and --num_nodes {self.num_nodes} must be at least 1")
        lowest = {"epochs": 1, "batch_size": 1, "accumulate": 1, "eval_every": 0, "patience": 0, "clip": 0}
        for name, least in lowest.items():
            value = getattr(self, name)
            if not isinstance(value, str) and value < least:
                raise UserError(f"--{name} {value} is too small: it must be at least {least}")
        if self.monitor is not None and self.monitor not in self.metrics:
            raise UserError(f"--monitor {self.monitor}: there are {', '.join(self.metrics)}")
        if self.data.augment != "recipe" and getattr(self, "vflip", False):
            raise UserError("--vflip is part of the task's augmentation, which --data.augment replaces: leave it out")
        if not self.lr > 0:
            raise UserError(f"--lr {self.lr} must be positive")
        for name, smallest, largest in (("first_layer_lr", 1e-6, 1.0), ("stochastic_depth", 0.0, 0.99)):
            value = getattr(self, name)
            if value is not None and not smallest <= value <= largest:
                raise UserError(f"--{name} {value} is out of range: it must be from {smallest:g} to {largest:g}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"--ema_decay {self.ema_decay} must be at least 0 and below 1")
        if not 0 < self.data.fraction <= 1:
            raise UserError(f"--data.fraction {self.data.fraction} must be above 0 and at most 1")
        if not 0 <= self.data.holdout < 1:
            raise UserError(f"--data.holdout {self.data.holdout} must be at least 0 and below 1")
        if self.data.cached_augmentations < 0:
            raise UserError(f"--data.cached_augmentations {self.data.cached_augmentations} must be at least 0")
        if self.data.cached_augmentations and not self.caches_features:
            raise UserError(
                "--data.cached_augmentations is not available for this task: its neck and head take most of the "
                "training time, so that cached features save little. Leave it out"
            )
        if self.data.cached_augmentations and self.protocol not in ("linear", "frozen"):
            raise UserError(
                f"--data.cached_augmentations {self.data.cached_augmentations} caches features of a frozen backbone: "
                f"it needs --protocol linear or frozen, not {self.protocol}"
            )
        if self.data.cached_augmentations and self.data.skip_bad:
            raise UserError(
                "--data.cached_augmentations caches features for later trainings, which could not report skipped "
                "images: --data.skip_bad must be 0"
            )
        if self.lora_rank < 1:
            raise UserError(f"--lora_rank {self.lora_rank} is too small: it must be at least 1")
        if self.lora_rank != LORA_RANK and self.protocol != "lora":
            raise UserError(f"--lora_rank {self.lora_rank} has no effect without --protocol lora")
        if self.checkpointing and self.protocol in ("linear", "frozen"):
            raise UserError(
                f"--checkpointing has no effect with --protocol {self.protocol}: a frozen backbone stores nothing for "
                "the backward pass. Leave it out"
            )
        if self.checkpointing and self.compile:
            raise UserError(
                "--checkpointing cannot be combined with --compile, which decides what the backward pass keeps. "
                "Leave one of them out"
            )
        if self.protocol == "linear" and self.has_neck() and self.pretrained is True:
            raise random_neck()
        if self.protocol in ("linear", "frozen", "lora") and self.pretrained is False:
            raise UserError(
                f"--protocol {self.protocol} needs pretrained weights: it cannot be used with --pretrained false"
            )
        if self.protocol == "scratch" and isinstance(self.pretrained, str):
            raise UserError(
                f"--protocol scratch starts from random weights: it cannot be used with --pretrained "
                f"{self.pretrained}. Use --protocol finetune"
            )
        if self.image_size is not None:
            parse_size(self.image_size)
        for name in self.logger:
            spec = find_spec(name)
            if spec is None or spec.origin is None:  # the folders that mlflow and wandb write look like empty packages
                raise UserError(f"--logger {name} is not installed: python -m pip install 'backbone-swap[track]'")


@dataclass
class ScoreConfig:
    """Settings that `eval` and `predict` share."""

    checkpoint: str | None = None
    """Run folder, checkpoint file, exported file (model.onnx or model.xml), or run of the Hugging Face Hub,
    hf://OWNER/NAME. By default the latest run of this task."""
    backbone: str | None = None
    """Use the published weights of this backbone instead of a run, in tasks that have such weights."""
    image_size: int | str | None = None
    """Input size in pixels: N for a square, or HxW. By default the size of the training."""
    batch_size: int = 8
    """Number of images per batch."""
    precision: Precision = "fp32"
    """Floating-point precision of the network."""
    runtime: Literal["torch", "onnx", "openvino"] = "torch"
    """Run a checkpoint by onnxruntime or OpenVINO on the CPU, as an exported file would. The `export` command checks
    that the results are the same. Exported files always run in their own runtime."""
    device: str = "auto"
    """Device to run on: cpu, cuda, cuda:N, mps, or auto for a GPU if there is one."""


@dataclass
class EvalConfig(ScoreConfig):
    """Settings of `eval`, for all tasks."""

    output: str | None = None
    """Folder for metrics.json and the results of each image. By default nothing is written."""
    data: EvalData = field(default_factory=EvalData)


@dataclass
class PredictConfig(ScoreConfig):
    """Settings of `predict`, for all tasks."""

    images: list[str] = field(default_factory=list)
    """Images: one or several files, folders, patterns in quotes such as 'photos/*.jpg', or .txt files with one path per
    line. Or a COCO file, as FILE.json or FILE.json:FOLDER, whose image ids the results then have."""
    recursive: bool = False
    """Read the sub-folders of folders, too."""
    exif: Literal["auto", "apply", "ignore"] = "auto"
    """EXIF orientation of photographs: apply turns them upright, ignore keeps the pixels as stored. auto turns them,
    unless a COCO file states the size of the stored pixels. Boxes and masks refer to the image as it was predicted."""
    output: str = "predictions"
    """Folder for the results."""
    pictures: bool = True
    """Save a copy of each image with its predictions drawn on it."""


def random_neck() -> UserError:
    """The error for the protocol "linear" with a neck or decoder that has random weights. The caller raises it."""
    return UserError(
        "`protocol='linear'` trains the last layer over a neck or decoder with random weights, which never change: its "
        "score says nothing about the backbone. Use `protocol='frozen'`, which trains neck and head, or start from a "
        "run of this task with `pretrained`.",
        settings=("protocol", "pretrained"),
    )


def parse_size(size: int | str) -> tuple[int, int]:
    """Height and width in pixels: `320` -> (320, 320), `"480x640"` -> (480, 640).

    Raises UserError for other formats and for sides outside 32 to 8192.
    """
    sides = str(size).lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 32 <= int(side) <= 8192 for side in sides):
        raise UserError(f"image size '{size}' must be N or HxW, in pixels, with each side from 32 to 8192")
    return int(sides[0]), int(sides[-1])
