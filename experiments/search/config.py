"""Settings of `python -m experiments.search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from backbones.errors import UserError
from engine.config import Precision, parse_size
from experiments.jobs.study import check_study


@dataclass
class SearchConfig:
    """Settings of `search`."""

    task: str = "classification"
    """What networks are searched for: classification, detection or segmentation."""
    base: str = "efficientnet_b0"
    """EfficientNet whose stages are varied; the first trial is itself."""
    trials: int = 40
    """Networks to train in all; a larger number continues a finished search."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How networks are drawn: by a model of what did well so far, or at random."""
    objective: Literal["weighted", "front"] = "weighted"
    """What is sought: the best score * (cost / base's cost)^weight, or all networks that no other beats in both."""
    cost: Literal["macs", "latency"] = "macs"
    """What a network costs: multiply-adds, or the time of an image on this machine."""
    weight: float = -0.07
    """Exponent of the cost; the more negative, the cheaper the networks that are preferred."""
    prune: bool = False
    """Stop trainings whose objective is below the median of earlier ones at the same epoch."""
    seed: int = 0
    """Seed of the trainings and of what is drawn."""
    epochs: int | None = None
    """Passes over the training images; by default the recipe's."""
    batch_size: int | None = None
    """Images in each step; by default the recipe's."""
    image_size: int | str | None = None
    """Side of the square input in pixels, or HxW; by default the recipe's, or that of the base."""
    precision: Precision = "fp32"
    """Arithmetic of the networks."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    output: str = "runs/search"
    """Folder of the search: networks, trainings, trials.csv and front.png."""

    def check(self) -> None:
        """Raise UserError for a search that could not be made."""
        check_study(self)
        if self.trials < 1:
            raise UserError(f"--trials {self.trials} is too small: at least 1")
        if self.weight > 0:
            raise UserError(f"--weight {self.weight} would prefer what costs more: at most 0")
        if self.prune and self.objective == "front":
            raise UserError("--prune needs one number to judge a training by: it cannot go with --objective front")
        if self.image_size is not None:
            parse_size(self.image_size)
