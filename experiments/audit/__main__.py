"""`python -m experiments.audit ROOT`: what is wrong with a data set, worst first, before it spoils a training."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from backbones.errors import BadInput
from experiments.audit.runner import audit


def main(arguments: list[str] | None = None) -> int:
    """Audit the folder of the command line; returns 0 where it could be read, whatever was found, and 3 where not."""
    parser = argparse.ArgumentParser(prog="python -m experiments.audit", description=__doc__, allow_abbrev=False)
    parser.add_argument("root", metavar="ROOT", help="folder of the data set")
    parser.add_argument("--image_size", type=int, default=512, metavar="N", help="input size that anchors are laid on")
    parser.add_argument("--output", metavar="DIR", help="folder of audit.json and pictures; runs/audit/NAME by default")
    asked = parser.parse_args(arguments)
    root = Path(asked.root)
    output = Path(asked.output) if asked.output else Path("runs") / "audit" / root.resolve().name
    try:
        audit(root, asked.image_size, output)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
