"""`python -m experiments.joint.train`: train one backbone and one neck with several heads.

Settings of one head are --NAME.FLAG VALUE, such as --detection.lr 0.001, and its data --data.NAME.root FOLDER.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from engine.cli import command
from engine.entry import without_collection
from experiments.joint.config import JointTrainConfig
from experiments.joint.settings import resolved, split_by_head
from experiments.joint.spec import SPEC


def main(argv: Sequence[str] | None = None, is_program: bool | None = None) -> None:
    """The command.

    Args:
        argv: its arguments; None for those of this process.
        is_program: whether this process was started for the command; by default if there is no `argv`. Only then it can
            be started once for each device.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    own, by_head = split_by_head(arguments)

    def run(config: Any) -> Any:
        settings = resolved(config, own, by_head)
        with without_collection():
            from engine import commands

        return commands.train(SPEC, settings, is_program=argv is None if is_program is None else is_program)

    command(f"{SPEC.program}.train", JointTrainConfig, run, __doc__ or "", SPEC.presets)(own)


if __name__ == "__main__":
    main()
