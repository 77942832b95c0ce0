"""Settings of `python -m experiments.shortlist`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backbones.errors import UserError
from engine.config import Protocol
from experiments.jobs.arguments import files_by_backbone
from experiments.shortlist.stored import CHOSEN, CORPUS, OF_BOXES, SCORES, SIZE, STATIC
from experiments.tasks import TASKS


@dataclass
class ShortlistConfig:
    """Settings of `shortlist`."""

    task: str = "classification"
    """Task that the networks are to be trained for: classification, detection or segmentation."""
    backbones: list[str] = field(default_factory=lambda: ["tf_efficientnet_lite[0-2]"])
    """Candidates: names, or shell patterns in quotes such as 'resnet*', which select the default weights of each
    network. 'resnet50.*' selects all published weights of one."""
    weights: list[str] = field(default_factory=list)
    """Candidates with weight files, as BACKBONE=FILE."""
    score: bool = True
    """Compute features of the candidates and score them. Otherwise only the static ranking is printed: published
    accuracy, size and licence, without any download."""
    rank_by: str = "LogME"
    """What orders the list: a score of features (k-NN, ridge, logistic, LogME, H-score, or TLogME in detection), static
    for published accuracy, size for the number of parameters, the largest first, corpus for the mean rank on the data
    sets of the corpus, or chosen for the one of these that had the lowest regret there."""
    first: int = 3
    """Length of the shortlist."""
    images: int = 1000
    """Most training images to compute features of."""
    image_size: int | str | None = None
    """Side of the square input in pixels, or HxW; by default as in the recipe."""
    batch_size: int = 16
    """Number of images per batch."""
    seed: int = 0
    """Seed of regions, pixels and folds."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps."""
    cache_gb: float = 10.0
    """Most disk space for downloaded weights. Of those that this command downloaded, the worst candidates' are deleted
    first."""
    max_params: float | None = None
    """Leave out candidates with more parameters, in millions, according to the table of published results."""
    corpus: str = "results"
    """Folder of a corpus, see `experiments.corpus`, from which hit rate and regret are measured."""
    protocol: Protocol = "finetune"
    """Protocol of the trainings: of those that hit rate and regret are measured on, and of --then compare."""
    record: bool = False
    """Add the scores to shortlist.csv of the corpus, where hit rate and regret are measured from them."""
    measured: str | None = None
    """Only write hit rate and regret of shortlists on the corpus, for all tasks, to this page."""
    output: str = "runs/shortlist"
    """Folder for shortlist.csv and, with --then compare, the comparison."""
    then: Literal["compare"] | None = None
    """compare: train the shortlist with `experiments.compare`."""

    def check(self) -> None:
        """Raise UserError for settings that no shortlist could use."""
        if self.task not in TASKS:
            raise UserError(f"--task {self.task}: there are {', '.join(TASKS)}")
        for name in ("first", "images", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is too small: it must be at least 1")
        if not self.backbones and not self.weights:
            raise UserError("--backbones needs at least one name or pattern")
        if self.protocol == "scratch":
            raise UserError("--protocol scratch: a shortlist ranks networks by their weights")
        if not self.cache_gb > 0:
            raise UserError(f"--cache_gb {self.cache_gb:g} is too small")
        known = [name for name in (*SCORES, STATIC, SIZE, CORPUS, CHOSEN) if name != OF_BOXES]
        if self.rank_by not in (*known, *([OF_BOXES] if self.task == "detection" else [])):
            raise UserError(f"--rank_by {self.rank_by}: there are {', '.join(known)}, and {OF_BOXES} for detection")
        _ = self.weights_by_backbone

    @property
    def weights_by_backbone(self) -> dict[str, str]:
        """The weight files of `weights` by backbone. Raises UserError for wrong entries."""
        return files_by_backbone(self.weights)
