"""`python -m experiments.search`: find variants of EfficientNet that are worth more, on your data, for their cost."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.jobs.study import run_study
from experiments.search.config import SearchConfig

DESCRIPTION = (
    "Train variants of an EfficientNet from scratch, chosen by how earlier ones did, and tell which are worth their "
    "cost. Scores are of training images kept out of training, never of the validation split. What is found goes by "
    "--backbone OUTPUT#NUMBER in every command. Settings of the training go as --TASK.FLAG VALUE, its data as "
    "--data.root FOLDER. The same command continues a search, and several at once share it."
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def work(config: SearchConfig, asked: list[str]) -> None:
        from experiments.search.runner import search

        search(config, asked)

    run_study("experiments.search", SearchConfig, work, DESCRIPTION, argv)


if __name__ == "__main__":
    main()
