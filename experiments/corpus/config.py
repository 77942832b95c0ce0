"""Settings of `python -m experiments.corpus`."""

from __future__ import annotations

from dataclasses import dataclass, field

from backbones.errors import UserError
from experiments.jobs.arguments import files_by_backbone


@dataclass
class FillConfig:
    """Settings of `corpus fill`."""

    data: str = ""
    """Folder with the folders of all data sets that the plan names."""
    corpus: str = "results"
    """Folder of the corpus: corpus.csv, and resamples/ for intervals."""
    plan: str = "results/plan.yaml"
    """YAML file with the trainings that the corpus is to have."""
    weights: list[str] = field(default_factory=list)
    """Networks with weight files that join the plan's pretrained ones, as BACKBONE=FILE."""
    sets: list[str] = field(default_factory=list)
    """Names of the data sets to train on; by default all of the plan."""
    minutes: float = 60.0
    """Time budget. The training in progress at its end saves a checkpoint, from which the next call resumes it."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, mps."""
    output: str = "runs/corpus"
    """Folder for the trainings. Their checkpoints are deleted when they have finished."""
    dry_run: bool = False
    """Only list the missing trainings, in the order in which they would run."""

    def check(self) -> None:
        """Raise UserError for settings that no call could use."""
        if not self.data:
            raise UserError("`data` is missing: the folder of the data sets", settings=("data",))
        if not self.minutes > 0:
            raise UserError(f"`minutes={self.minutes:g}` is too short", settings=("minutes",))
        _ = self.weights_by_backbone

    @property
    def weights_by_backbone(self) -> dict[str, str]:
        """The weight files of `weights` by backbone. Raises UserError for wrong entries."""
        return files_by_backbone(self.weights)


@dataclass
class PageConfig:
    """Settings of `corpus page`."""

    corpus: str = "results"
    """Folder of the corpus."""
    plan: str = "results/plan.yaml"
    """YAML file with the trainings that the corpus is to have, for the list of missing ones."""
    output: str = "docs/corpus.md"
    """Page to write. Its picture goes to the folder pictures/ beside it."""
