"""`python -m experiments.audit ROOT`: find problems of a data set before training, and list the worst first."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from backbones.errors import BadInput, with_flags
from experiments.audit.runner import audit


def main(arguments: list[str] | None = None) -> int:
    """Audit the folder that the command line names. Returns the exit code: 0 if it could be read, otherwise 3."""
    parser = argparse.ArgumentParser(prog="python -m experiments.audit", description=__doc__, allow_abbrev=False)
    parser.add_argument("root", metavar="ROOT", help="folder of the data set")
    parser.add_argument(
        "--image_size",
        type=int,
        default=512,
        metavar="N",
        help="side of the square input, in pixels, that anchors are checked for",
    )
    parser.add_argument("--output", metavar="DIR", help="folder for audit.json and pictures; default runs/audit/NAME")
    options = parser.parse_args(arguments)
    root = Path(options.root)
    output = Path(options.output) if options.output else Path("runs") / "audit" / root.resolve().name
    try:
        audit(root, options.image_size, output)
    except BadInput as error:
        print(f"error: {with_flags(error)}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
