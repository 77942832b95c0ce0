"""Settings of `python -m experiments.profile`."""

from __future__ import annotations

from dataclasses import dataclass, field

from backbones.errors import UserError
from engine.config import Precision, parse_size
from experiments.costs.deployed import DeployedFormat
from experiments.tasks import TASKS


@dataclass
class ProfileConfig:
    """Settings of `profile`."""

    backbones: list[str] = field(default_factory=lambda: ["efficientnet_b0", "resnet50"])
    """Networks to measure: names that `python -m backbones` lists, or module:function for your own."""
    runs: list[str] = field(default_factory=list)
    """Finished runs to measure in the runtimes of --formats, instead of networks with random weights."""
    formats: list[DeployedFormat] = field(default_factory=lambda: ["torch"])
    """With --runs: runtimes to measure them in."""
    tasks: list[str] = field(default_factory=lambda: ["detection"])
    """Tasks to build models for: any of classification, detection and segmentation."""
    image_size: int | str = 512
    """Side of the square input in pixels, or HxW."""
    batch_size: int = 1
    """Number of images per pass."""
    precision: Precision = "fp32"
    """Number format of the networks' arithmetic: fp32, or mixed precision with bf16 or fp16."""
    threads: int | None = None
    """Threads on a CPU; by default PyTorch's choice."""
    device: str = "auto"
    """Where to run: auto, cpu, cuda, cuda:1, mps."""
    repeats: int = 30
    """Number of timed passes, after a few that are not timed."""
    output: str = "runs/profile"
    """Folder for profile.csv and profile.png, or with --runs deployed.csv and deployed.png. Existing ones are
    overwritten."""

    def check(self) -> None:
        """Raise UserError for settings that cannot be measured."""
        parse_size(self.image_size)
        for name in self.tasks:
            if name not in TASKS:
                raise UserError(f"--tasks {name}: there are {', '.join(TASKS)}")
        for name, least in (("batch_size", 1), ("repeats", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name} {value} is too small: at least {least}")
        if self.formats != ["torch"] and not self.runs:
            raise UserError("--formats needs --runs: networks with random weights are measured in PyTorch")
        if not self.formats:
            raise UserError("--formats needs at least one name")
        if not self.backbones or not self.tasks:
            raise UserError("--backbones and --tasks need at least one name each")
