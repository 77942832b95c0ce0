"""`python -m experiments.joint train|eval|predict|export|compare`: one backbone and one neck with several heads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from backbones.errors import unknown_name

COMMANDS = {
    "train": "experiments.joint.train",
    "eval": "experiments.joint.eval",
    "predict": "experiments.joint.predict",
    "export": "experiments.joint.export",
    "compare": "experiments.joint.compare",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first word names, with the other words as its arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    if name in ("", "-h", "--help"):
        print(f"{__doc__}\n\nEach command explains its flags: python -m experiments.joint train --help")
        return
    if name not in COMMANDS:
        print(f"error: {unknown_name('command', name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    run = import_module(COMMANDS[name]).main
    if name == "train":
        run(words[1:], is_program=argv is None)
    else:
        run(words[1:])


if __name__ == "__main__":
    main()
