"""Settings of `python -m experiments.search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.errors import UserError
from engine.config import Precision, parse_size
from experiments.jobs.runners import RunnerName
from experiments.jobs.study import check_study


@dataclass
class SearchConfig:
    """Settings of `search`."""

    task: str = "classification"
    """Task that the networks are trained for: classification, detection or segmentation."""
    base: str = "efficientnet_b0"
    """EfficientNet to vary. The first trial trains it unchanged."""
    trials: int = 40
    """Total number of networks to train. To extend a finished search, pass a larger number."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How networks are sampled: by a model of the scores so far (tpe), or at random."""
    objective: Literal["weighted", "front"] = "weighted"
    """What is optimised: score * (cost / base's cost)^weight, or the Pareto front of score and cost."""
    cost: Literal["macs", "latency"] = "macs"
    """Cost of a network: multiply-adds, or milliseconds per image on this machine."""
    weight: float = -0.07
    """Exponent of the cost. More negative values prefer cheaper networks."""
    prune: bool = False
    """Stop a training early if its objective is below the median of earlier ones at the same epoch."""
    seed: int = 0
    """Seed of the trainings and of the sampler."""
    epochs: int | None = None
    """Number of passes over the training images; by default as in the recipe."""
    batch_size: int | None = None
    """Number of images per batch; by default as in the recipe."""
    image_size: int | str | None = None
    """Side of the square input in pixels, or HxW; by default the size of the recipe, or of the base network."""
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
    output: str = "runs/search"
    """Folder for networks, trainings, trials.csv and front.png."""

    def check(self) -> None:
        """Raise UserError for settings that no search could use."""
        check_study(self)
        if self.trials < 1:
            raise UserError(f"--trials {self.trials} is too small: at least 1")
        if self.weight > 0:
            raise UserError(f"--weight {self.weight} would prefer expensive networks: at most 0")
        if self.prune and self.objective == "front":
            raise UserError("--prune needs a single objective, so it cannot be combined with --objective front")
        if self.image_size is not None:
            parse_size(self.image_size)
