"""Settings of `python -m experiments.compare`."""

from __future__ import annotations

from dataclasses import dataclass, field

from backbones.errors import UserError
from engine.config import Precision, Protocol
from experiments.tasks import TASKS


@dataclass
class CompareConfig:
    """Settings of `compare`."""

    tasks: list[str] = field(default_factory=list)
    """Any of classification, detection and segmentation; by default those that settings are given for, else all."""
    backbones: list[str] = field(default_factory=lambda: ["efficientnet_b0", "resnet18"])
    """Networks to compare: names of `python -m backbones`, or module:function for one of your own."""
    baseline: str | None = None
    """Backbone that differences are measured from; by default the first ResNet, else the last backbone."""
    protocol: Protocol = "scratch"
    """What every training starts from and trains: scratch, finetune, linear or frozen."""
    seeds: int = 1
    """Trainings of each backbone and task, with seeds 0, 1, ..."""
    lrs: list[float] = field(default_factory=list)
    """Learning rates to choose each backbone's from, on a part of the training images; none takes the recipe's."""
    epochs: int | None = None
    """Passes over the training images, in all tasks; by default the recipe's."""
    batch_size: int | None = None
    """Images in each step, in all tasks; by default the recipe's."""
    image_size: int | str | None = None
    """Side of the square input in pixels, or HxW, in all tasks; by default the recipe's."""
    precision: Precision = "fp32"
    """Arithmetic of the networks."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    output: str = "runs/compare"
    """Folder of trainings, tables and report."""
    dry_run: bool = False
    """Only list the trainings, with an estimate of their time."""

    def check(self) -> None:
        """Raise UserError for a comparison that could not be made."""
        for name in self.tasks:
            if name not in TASKS:
                raise UserError(f"--tasks {name}: there are {', '.join(TASKS)}")
        for name in ("tasks", "backbones", "lrs"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UserError(f"--{name} {' '.join(map(str, values))}: one is named twice")
        if not self.backbones:
            raise UserError("--backbones needs at least one name, and two to compare")
        if self.baseline is not None and self.baseline not in self.backbones:
            raise UserError(f"--baseline {self.baseline} is not among --backbones {' '.join(self.backbones)}")
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds} is too small: at least 1")
