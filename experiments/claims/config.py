"""Settings of `python -m experiments.claims`."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import UserError


@dataclass
class ClaimsConfig:
    """Settings of `claims`."""

    imagenet: str | None = None
    """Folder of ImageNet. Published weights are scored on its val split; timm downloads them where necessary."""
    coco: str | None = None
    """Folder of COCO, for --detector."""
    detector: str | None = None
    """Detector to score on COCO: a file of published weights in effdet's format, or a run."""
    ade20k: str | None = None
    """Folder of ADE20K, for --segmenter."""
    segmenter: str | None = None
    """Segmentation run to score on ADE20K."""
    passes: int = 3
    """Timed passes of each network on one core, alternating with those of the network it is compared with."""
    output: str = "runs/claims"
    """Folder for claims.md and claims.csv. Existing ones are overwritten."""

    def check(self) -> None:
        """Raise UserError for settings that check nothing, or contradict each other."""
        if self.passes < 1:
            raise UserError(f"--passes {self.passes} is too small: at least 1")
        for data, model in (("coco", "detector"), ("ade20k", "segmenter")):
            if (getattr(self, data) is None) != (getattr(self, model) is None):
                raise UserError(
                    f"--{data} and --{model} must be given together: a data set, and the model to score on it"
                )
