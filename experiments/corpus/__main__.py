"""`python -m experiments.corpus fill | page`: train what the corpus lacks, and write its page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from engine.cli import command
from experiments.corpus.config import FillConfig, PageConfig

FILL = (
    "Train what the corpus lacks of its plan, the oldest gaps first, until the time is over. To go on, run the same "
    "command: finished trainings are kept, and the last one is resumed."
)
PAGE = "Write the page of the corpus: rankings with intervals, wins and losses across data sets, costs, and gaps."


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""

    def fill_corpus(config: FillConfig) -> Any:
        from experiments.corpus.fill import fill

        return fill(config)

    def write_page(config: PageConfig) -> Any:
        from experiments.corpus.page import write

        return write(config)

    action, *rest = list(sys.argv[1:] if argv is None else argv) or [""]
    if action == "fill":
        command("experiments.corpus fill", FillConfig, fill_corpus, FILL)(rest)
    elif action == "page":
        command("experiments.corpus page", PageConfig, write_page, PAGE)(rest)
    else:
        print("usage: python -m experiments.corpus fill | page [--help]", file=sys.stderr)
        print(f"  fill  {FILL}\n  page  {PAGE}", file=sys.stderr)
        sys.exit(0 if action in ("-h", "--help") else 2)


if __name__ == "__main__":
    main()
