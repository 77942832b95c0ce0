"""Settings of the commands of `experiments.joint`. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from backbones.errors import UserError, unknown_name
from engine import config as engine
from experiments.tasks import TASKS

NAME, METRIC = "joint", "score"
PRESETS = Path(__file__).parent / "presets"
SHARED_PARTS = ("backbone", "neck")


@dataclass
class JointTrainConfig(engine.TrainConfig):
    """Train one backbone and one neck with several heads."""

    metrics: ClassVar[tuple[str, ...]] = (METRIC,)

    heads: list[str] = field(default_factory=lambda: ["detection", "segmentation", "classification"])
    """Heads of the network: any of detection, segmentation and classification; or NAME=KIND for several of one kind,
    such as cells=detection. Settings that belong to the whole training are by default those of the first head."""
    phi: int | str | None = None
    """Compound coefficient of neck and heads, 0 to 7, 7x or lite0 to lite4. By default that of the first head."""
    finest: int | None = None
    """Stride of the neck's finest map, 4 or 8. By default 4 with segmentation, else 8. Only segmentation uses 4."""
    together: list[str] | None = None
    """Heads that train on the same photographs, matched by file name, with one pass for all of them. By default those
    whose training images have the same names and sizes; none: each head has batches of its own."""
    loss_weights: list[str] = field(default_factory=list)
    """Weights of the heads' losses, as NAME=WEIGHT. Each is 1 by default."""
    balance: Literal["fixed", "uncertainty", "pcgrad"] = "fixed"
    """Balance of the heads: fixed weights, weights that are learned from the uncertainty of each head (uncertainty), or
    gradients of the shared parts without the components that contradict another head's (pcgrad)."""
    conflict_every: int = 50
    """Number of optimiser steps between measurements of how far the heads' gradients agree. 0 measures nothing."""
    norms: Literal["shared", "per_dataset"] = "shared"
    """Statistics of batch norm in the shared parts: one for all data, or one for each data set (per_dataset)."""
    init: list[str] = field(default_factory=list)
    """Runs to start from, as NAME=RUN: the head NAME from each run, backbone and neck from the first one."""
    distill: list[str] = field(default_factory=list)
    """Runs whose outputs heads learn in addition to the labels, as NAME=RUN with a run of the head's task."""
    distill_weight: float = 1.0
    """Factor on the losses of --distill."""
    freeze: list[str] = field(default_factory=list)
    """Parts that are not trained: names of heads, backbone, neck."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of each head by name. The command fills them in from --NAME.FLAG and --data.NAME.FLAG."""

    @property
    def kinds(self) -> dict[str, str]:
        """Name of each head -> its task."""
        return kinds_of(self.heads)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each head's loss. Raises UserError for unknown heads and values that are no weights."""
        found = dict.fromkeys(self.kinds, 1.0)
        for name, value in pairs(self.loss_weights, "loss_weights", self.kinds).items():
            try:
                found[name] = float(value)
            except ValueError:
                found[name] = math.nan
            if not 0 <= found[name] < math.inf:
                raise UserError(f"`loss_weights`: {name}={value} is not a number from 0 on", settings=("loss_weights",))
        if not any(found.values()):
            raise UserError("`loss_weights`: at least one weight must be positive", settings=("loss_weights",))
        return found

    def head_config(self, name: str) -> Any:
        """The settings of a head, as its task's `TrainConfig`."""
        return TASKS[self.kinds[name]].train_config.of(self.settings[name])

    def with_files(self) -> JointTrainConfig:
        """The settings unchanged: the files that the heads' settings name are read when these are made."""
        return self

    def check(self) -> None:
        """Raise UserError for values out of range and for settings that contradict each other."""
        super().check()
        kinds = self.kinds
        _ = self.weights, pairs(self.init, "init", kinds), pairs(self.distill, "distill", kinds)
        if not 0 <= self.distill_weight < math.inf:
            raise UserError(f"--distill_weight {self.distill_weight} must be at least 0")
        for name in self.freeze:
            if name not in (*kinds, *SHARED_PARTS):
                raise unknown_name("part", name, (*kinds, *SHARED_PARTS))
        for name in self.together or ():
            if name not in (*kinds, "none"):
                raise unknown_name("head", name, (*kinds, "none"))
        if self.protocol == "linear":
            raise UserError("--protocol linear trains one last layer: use frozen, or --freeze backbone neck")
        if self.accumulate == "auto":
            raise UserError("--accumulate auto is not available for several heads: use a smaller --batch_size")
        if self.conflict_every < 0:
            raise UserError(f"--conflict_every {self.conflict_every} must be at least 0")
        if self.balance == "pcgrad" and (self.precision == "fp16" or self.batches_per_step > 1):
            raise UserError("--balance pcgrad needs --precision fp32 or bf16, and --accumulate 1")
        for name in self.settings:
            head = self.head_config(name)
            head.check()
            if head.data.channels is not None or head.data.bands is not None:
                raise UserError(
                    "`data.channels` and `data.bands` are not available for several heads: images are 8-bit RGB",
                    settings=("data.channels", "data.bands"),
                )
            if getattr(head, "style", "pytorch") != "pytorch":
                raise UserError("`style='tensorflow'` is not available for several heads", settings=("style",))
            if (neck := getattr(head, "decoder", getattr(head, "neck", "bifpn"))) != "bifpn":
                raise UserError(f"heads share a BiFPN: leave `{neck}` out", settings=("neck", "decoder"))


@dataclass
class JointEvalConfig(engine.EvalConfig):
    """Evaluate each head of a joint network on its data."""


@dataclass
class JointPredictConfig(engine.PredictConfig):
    """Predict boxes, class maps and classes of images in one pass."""

    min_score: float = 0.3
    """Lowest score of detections that are drawn; the JSON file has all detections."""
    opacity: float = 0.45
    """Opacity of the class colours in pictures: 0 shows only the image, 1 only the classes."""


@dataclass
class JointCompareConfig:
    """Compare a joint network with single-task networks."""

    backbones: list[str] = field(default_factory=lambda: ["tf_efficientnet_lite0"])
    """Networks that are compared, each on its own."""
    heads: list[str] = field(default_factory=lambda: JointTrainConfig().heads)
    """Heads of the joint network, as in its training. Each is also trained alone."""
    seeds: int = 1
    """Number of trainings of each network, with seeds 0, 1, ... A verdict needs at least 2."""
    budgets: list[Literal["epochs", "macs"]] = field(default_factory=lambda: ["epochs", "macs"])
    """What is equal: the number of epochs, or the cost of training as multiply-adds of forward passes (macs): the joint
    network then gets the epochs that all single trainings cost together."""
    output: str = "runs/joint-compare"
    """Folder for trainings, tables and report."""
    dry_run: bool = False
    """Only print the commands of the trainings with equal epochs."""

    def check(self) -> None:
        """Raise UserError for settings that no comparison could use."""
        kinds_of(self.heads)
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds} is too small: it must be at least 1")
        if not self.backbones or not self.budgets:
            raise UserError("--backbones and --budgets need at least one value each")


def kinds_of(heads: list[str]) -> dict[str, str]:
    """Name of each head -> its task, from the setting `heads`. Raises UserError for wrong entries."""
    kinds: dict[str, str] = {}
    for entry in heads:
        name, equals, kind = entry.partition("=")
        kind = kind if equals else name
        if kind not in TASKS:
            raise unknown_name("kind of head", kind, TASKS)
        if not name.isidentifier() or name in (*SHARED_PARTS, "data"):
            raise UserError(f"`heads`: '{name}' is not a name for a head: use letters, digits and _")
        if name in kinds:
            raise UserError(f"`heads`: there are two heads '{name}': name them, as in a={kind} b={kind}")
        kinds[name] = kind
    if not kinds:
        raise UserError("`heads` needs at least one head", settings=("heads",))
    return kinds


def pairs(entries: list[str], setting: str, kinds: dict[str, str]) -> dict[str, str]:
    """The values of a setting of NAME=VALUE entries, by name of the head. Raises UserError for wrong entries."""
    found: dict[str, str] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if name not in kinds or not value:
            raise UserError(f"`{setting}`: '{entry}' is not NAME=VALUE with one of {', '.join(kinds)}")
        found[name] = value
    return found
