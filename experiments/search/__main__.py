"""`python -m experiments.search`: search for variants of EfficientNet with a better score for their cost."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.jobs.study import run_study
from experiments.search.config import SearchConfig

DESCRIPTION = (
    "Train variants of an EfficientNet from scratch and report those with the best scores for their cost. The scores "
    "of earlier variants guide the choice of new ones. Scores are on held-out training images, never on the validation "
    "split. Any command accepts a network of the search as --backbone OUTPUT#NUMBER. Pass settings of the trainings as "
    "--TASK.FLAG VALUE and their data as --data.root FOLDER. To resume a search, run the same command. To share the "
    "work, run the command several times at once."
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def run(config: SearchConfig, train_arguments: list[str]) -> None:
        from experiments.search.runner import search

        search(config, train_arguments)

    run_study("experiments.search", SearchConfig, run, DESCRIPTION, argv)


if __name__ == "__main__":
    main()
