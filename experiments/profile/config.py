"""Settings of `python -m experiments.profile`."""

from __future__ import annotations

from dataclasses import dataclass, field

from backbones.errors import UserError
from engine.config import Precision, parse_size
from experiments.tasks import TASKS


@dataclass
class ProfileConfig:
    """Settings of `profile`."""

    backbones: list[str] = field(default_factory=lambda: ["efficientnet_b0", "resnet50"])
    """Networks to measure: names of `python -m backbones`, or module:function."""
    tasks: list[str] = field(default_factory=lambda: ["detection"])
    """Which models to build on them: any of classification, detection and segmentation."""
    image_size: int | str = 512
    """Side of the square input in pixels, or HxW."""
    batch_size: int = 1
    """Images in each pass."""
    precision: Precision = "fp32"
    """Arithmetic of the networks."""
    threads: int | None = None
    """Cores to use on a CPU; by default as many as PyTorch takes."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, mps."""
    repeats: int = 30
    """Passes that are timed, after a few that are not."""
    output: str = "runs/profile"
    """Folder of profile.csv and profile.png, which are written anew."""

    def check(self) -> None:
        """Raise UserError for values that cannot be measured."""
        parse_size(self.image_size)
        for name in self.tasks:
            if name not in TASKS:
                raise UserError(f"--tasks {name}: there are {', '.join(TASKS)}")
        for name, least in (("batch_size", 1), ("repeats", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} {value} is too small: at least {least}")
        if not self.backbones or not self.tasks:
            raise UserError("--backbones and --tasks need at least one name each")
