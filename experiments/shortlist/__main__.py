"""`python -m experiments.shortlist`: which backbones to train first on your data."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.jobs.study import run_study
from experiments.shortlist.config import ShortlistConfig

DESCRIPTION = (
    "Rank backbones for your data without training them: by scores of their features on the training images, beside "
    "published accuracy, size and licence. It prints how often such a list contained the best network on the data sets "
    "of the corpus. Pass the data as --data.root FOLDER, and settings of one task as --TASK.FLAG VALUE. To resume "
    "after an interruption, run the same command: finished scores are kept."
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def run(config: ShortlistConfig, train_arguments: list[str]) -> None:
        from experiments.shortlist.runner import shortlist

        shortlist(config, train_arguments)

    run_study("experiments.shortlist", ShortlistConfig, run, DESCRIPTION, argv)


if __name__ == "__main__":
    main()
