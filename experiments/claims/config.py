"""Settings of `python -m experiments.claims`."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import UserError


@dataclass
class ClaimsConfig:
    """Settings of `claims`."""

    imagenet: str | None = None
    """Folder of ImageNet; published weights are scored on its val split, fetched by timm where they are not here."""
    coco: str | None = None
    """Folder of COCO, for --detector."""
    detector: str | None = None
    """A detector to score there: a file of published weights in effdet's format, or a run."""
    ade20k: str | None = None
    """Folder of ADE20K, for --segmenter."""
    segmenter: str | None = None
    """A segmentation run to score there."""
    passes: int = 3
    """Timed passes of each network on one core, in turns with its rival's."""
    output: str = "runs/claims"
    """Folder of claims.md and claims.csv, which are written anew."""

    def check(self) -> None:
        """Raise UserError for settings that check nothing."""
        if self.passes < 1:
            raise UserError(f"--passes {self.passes} is too small: at least 1")
        for data, model in (("coco", "detector"), ("ade20k", "segmenter")):
            if (getattr(self, data) is None) != (getattr(self, model) is None):
                raise UserError(f"--{data} and --{model} go together: a data set, and what to score on it")
