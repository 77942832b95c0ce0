"""`python -m experiments.audit ROOT`: find problems of a data set before training, and list the worst first."""

from __future__ import annotations

from backbones.errors import BadInput
from engine.cli import command
from experiments.audit.config import AuditConfig

DESCRIPTION = (
    "Find problems of a data set before training, and list the worst first. Every format that training reads is "
    "recognised. Exit code 0 if the data could be read, whatever was found; 3 if no split could be read."
)


def run(config: AuditConfig) -> None:
    """Audit the data set."""
    from experiments.audit.runner import audit

    try:
        audit(config)
    except BadInput as error:  # the folder is an argument here, not the flag --data.root
        raise BadInput(str(error).replace("`root`", "ROOT"), settings=error.settings) from error


main = command("experiments.audit", AuditConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
