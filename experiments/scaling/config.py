"""Settings of `python -m experiments.scaling`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backbones.errors import UserError
from engine.cli import demo_unless_root
from engine.config import Precision
from experiments.jobs.study import check_study

DEMO: dict[str, Any] = {"image_size": 72, "epochs": 5, "batch_size": 16}  # a quarter of an hour on two CPU cores


@dataclass
class ScalingConfig:
    """Settings of `scaling`."""

    task: str = "classification"
    """What networks are trained for: classification, detection or segmentation."""
    base: str = "efficientnet_b0"
    """EfficientNet that is scaled, of phi 0."""
    coefficients: list[float] = field(default_factory=list)
    """Factors on depth, width and resolution at phi 1, instead of those that the grid finds."""
    depths: list[float] = field(default_factory=lambda: [1.0, 1.2, 1.4])
    """Factors on depth to try."""
    widths: list[float] = field(default_factory=lambda: [1.0, 1.1, 1.2])
    """Factors on width to try; resolution follows, since depth * width^2 * resolution^2 is 2."""
    phis: list[int] = field(default_factory=lambda: [1, 2])
    """Where scaling one dimension is compared with scaling all: at 2^phi times the base's multiply-adds."""
    seed: int = 0
    """Seed of the trainings."""
    epochs: int | None = None
    """Passes over the training images; by default the recipe's."""
    batch_size: int | None = None
    """Images in each step; by default the recipe's."""
    image_size: int | None = None
    """Side of the base's square input in pixels; by default the recipe's, or that of the base."""
    precision: Precision = "fp32"
    """Arithmetic of the networks."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    output: str = "runs/scaling"
    """Folder of the study: networks, trainings, grid.csv, family.csv and scaling.png."""
    dry_run: bool = False
    """Only list the trainings, with their multiply-adds."""

    def check(self) -> None:
        """Raise UserError for a study that could not be made."""
        check_study(self)
        for name in ("coefficients", "depths", "widths"):
            if any(not 1 <= value <= 4 for value in getattr(self, name)):
                raise UserError(f"--{name} {getattr(self, name)}: factors are from 1 to 4")
        if len(self.coefficients) not in (0, 3):
            raise UserError(f"--coefficients {self.coefficients}: three are needed, of depth, width and resolution")
        if any(not 1 <= phi <= 4 for phi in self.phis):
            raise UserError(f"--phis {self.phis}: whole numbers from 1 to 4")
        if self.image_size is not None and not 32 <= self.image_size <= 2048:
            raise UserError(f"--image_size {self.image_size}: pixels from 32 to 2048")


def sized_for_demo(config: ScalingConfig, asked: Sequence[str]) -> ScalingConfig:
    """The settings, with `DEMO` where nothing else is asked for the drawn portraits. `asked` are of train."""
    named = any(argument.partition("=")[0] == "--config" for argument in asked)
    if config.task != ScalingConfig.task or named or demo_unless_root(list(asked)) is None:
        return config
    return replace(config, **{name: value for name, value in DEMO.items() if getattr(config, name) is None})
