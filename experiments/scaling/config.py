"""Settings of `python -m experiments.scaling`."""

from __future__ import annotations

from dataclasses import dataclass, field

from backbones.errors import UserError
from engine.config import Precision
from experiments.jobs.runners import RunnerName
from experiments.jobs.study import check_study


@dataclass
class ScalingConfig:
    """Settings of `scaling`."""

    task: str = "classification"
    """Task that the networks are trained for: classification, detection or segmentation."""
    base: str = "efficientnet_b0"
    """EfficientNet to scale. It is phi 0 of the family."""
    coefficients: list[float] = field(default_factory=list)
    """Factors on depth, width and resolution at phi 1. If given, no grid is trained."""
    depths: list[float] = field(default_factory=lambda: [1.0, 1.2, 1.4])
    """Factors on depth in the grid."""
    widths: list[float] = field(default_factory=lambda: [1.0, 1.1, 1.2])
    """Factors on width in the grid. Resolution follows from depth * width^2 * resolution^2 = 2."""
    phis: list[int] = field(default_factory=lambda: [1, 2])
    """Costs at which scaling one dimension is compared with scaling all three: 2^phi times the base's multiply-adds."""
    seed: int = 0
    """Seed of the trainings."""
    epochs: int | None = None
    """Number of passes over the training images; by default as in the recipe."""
    batch_size: int | None = None
    """Number of images per batch; by default as in the recipe."""
    image_size: int | None = None
    """Side of the base's square input in pixels; by default the size of the recipe, or of the base network."""
    precision: Precision = "fp32"
    """Number format of the networks' arithmetic: fp32, or mixed precision with bf16 or fp16."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    runner: RunnerName = "local"
    """Where to train: on this machine, on a Ray cluster, whose address is in RAY_ADDRESS, or as jobs of a SLURM
    cluster, with sbatch's own variables such as SBATCH_PARTITION."""
    slots: int = 1
    """Number of trainings at the same time. They divide the cores, and each has a GPU of its own if there are
    several."""
    output: str = "runs/scaling"
    """Folder for networks, trainings, grid.csv, dimensions.csv, family.csv and scaling.png."""
    dry_run: bool = False
    """Only list the trainings, with their multiply-adds."""

    def check(self) -> None:
        """Raise UserError for settings that no study could use."""
        check_study(self)
        for name in ("coefficients", "depths", "widths"):
            if any(not 1 <= value <= 4 for value in getattr(self, name)):
                raise UserError(f"--{name} {getattr(self, name)}: factors must be from 1 to 4")
        if len(self.coefficients) not in (0, 3):
            raise UserError(f"--coefficients {self.coefficients}: give three: for depth, width and resolution")
        if any(not 1 <= phi <= 4 for phi in self.phis):
            raise UserError(f"--phis {self.phis}: must be whole numbers from 1 to 4")
        if self.image_size is not None and not 32 <= self.image_size <= 2048:
            raise UserError(f"--image_size {self.image_size}: must be from 32 to 2048 pixels")
