"""`python -m experiments.compare`: train backbones under one recipe; report score and cost of each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from engine.cli import command
from experiments.compare.config import CompareConfig
from experiments.jobs.arguments import split_by_task

DESCRIPTION = (
    "Train every backbone on every task under one recipe, and report what each is worth and what it costs. Settings of "
    "one task go as --TASK.FLAG VALUE, such as --detection.epochs 12 or --segmentation.config camvid, its data as "
    "--data.TASK.root FOLDER. Finished trainings in --output are kept: the same command continues after an interrupt."
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def run(config: CompareConfig) -> Any:
        from experiments.compare.runner import compare

        return compare(config, of_tasks)

    own, of_tasks = split_by_task(sys.argv[1:] if argv is None else argv)
    command("experiments.compare", CompareConfig, run, DESCRIPTION)(own)


if __name__ == "__main__":
    main()
