"""`python -m experiments.compare`: train backbones under one recipe, and say what each is worth and what it costs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from backbones.errors import UserError
from data.demo import TASKS
from experiments.arguments import split
from experiments.engine.cli import command
from experiments.engine.config import Precision, Protocol

DESCRIPTION = (
    "Train every backbone on every task under one recipe, and report what each is worth and what it costs. Settings of "
    "one task go as --TASK.FLAG VALUE, such as --detection.epochs 12 or --segmentation.config camvid, its data as "
    "--data.TASK.root FOLDER. Finished trainings in --output are kept: the same command continues after an interrupt."
)


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


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def run(config: CompareConfig) -> Any:
        from experiments.grid import compare

        return compare(config, of_tasks)

    own, of_tasks = split(sys.argv[1:] if argv is None else argv)
    command("experiments.compare", CompareConfig, run, DESCRIPTION)(own)


if __name__ == "__main__":
    main()
