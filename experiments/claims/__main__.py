"""`python -m experiments.claims`: claims about EfficientNet, with their sources and measurements."""

from __future__ import annotations

from engine.cli import command
from experiments.claims.config import ClaimsConfig

DESCRIPTION = (
    "Check the claims that articles make about EfficientNet. Sizes are counted and times are measured on this machine, "
    "without a download. Accuracies are scored if folders of ImageNet, COCO or ADE20K are given; otherwise the table "
    "contains the command that scores them."
)


def run(config: ClaimsConfig) -> None:
    """Check and report."""
    config.check()
    from experiments.claims.runner import write_claims

    write_claims(config)


main = command("experiments.claims", ClaimsConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
