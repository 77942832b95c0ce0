"""`python -m experiments.claims`: what articles say of EfficientNet, beside its source and what is measured here."""

from __future__ import annotations

from engine.cli import command
from experiments.claims.config import ClaimsConfig

DESCRIPTION = (
    "Check the claims that articles make of EfficientNet: sizes are counted and times measured on this machine, with "
    "no download; accuracies are scored where folders of ImageNet, COCO or ADE20K are given, else the command is told."
)


def run(config: ClaimsConfig) -> None:
    """Check and report."""
    config.check()
    from experiments.claims.runner import write_claims

    write_claims(config)


main = command("experiments.claims", ClaimsConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
