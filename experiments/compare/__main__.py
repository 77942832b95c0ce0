"""`python -m experiments.compare`: train backbones with one recipe, and report the score and cost of each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from engine.cli import command
from experiments.compare.config import CompareConfig
from experiments.jobs.arguments import split_by_task

DESCRIPTION = (
    "Train every backbone on every task with one recipe, and report the score and cost of each. Pass settings of one "
    "task as --TASK.FLAG VALUE, such as --detection.epochs 12 or --segmentation.config camvid, and its data as "
    "--data.TASK.root FOLDER. To resume after an interruption, run the same command: finished trainings in --output "
    "are kept."
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def run(config: CompareConfig) -> Any:
        from experiments.compare.runner import compare

        return compare(config, by_task)

    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--joint" in arguments:
        from experiments.joint.compare import main as compare_joint

        arguments.remove("--joint")
        compare_joint(arguments)
        return
    own, by_task = split_by_task(arguments)
    command("experiments.compare", CompareConfig, run, DESCRIPTION)(own)


if __name__ == "__main__":
    main()
