"""`python -m experiments.claims`: what articles say of EfficientNet, beside its source and what is measured here."""

from __future__ import annotations

from dataclasses import dataclass

from backbones.errors import UserError
from experiments.engine.cli import command

DESCRIPTION = (
    "Check the claims that articles make of EfficientNet: sizes are counted and times measured on this machine, with "
    "no download; accuracies are scored where folders of ImageNet, COCO or ADE20K are given, else the command is told."
)


@dataclass(frozen=True)
class Row:
    """One line of the table, in words."""

    claim: str
    source: str
    check: str
    measured: str
    verdict: str


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


def run(config: ClaimsConfig) -> None:
    """Check and report."""
    config.check()
    from experiments.verdicts import write_claims

    write_claims(config)


main = command("experiments.claims", ClaimsConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
