"""Writes what shortlists would have been worth on the corpus: `--measured PAGE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.console import err
from engine.image_results import LEARNED
from engine.record import write_text
from experiments.corpus.plan import SCRATCH
from experiments.corpus.rows import Corpus, CorpusRow
from experiments.report.formatting import markdown_row, points
from experiments.shortlist import stored
from experiments.shortlist.evidence import (
    FEWEST_NETWORKS,
    FEWEST_SETS,
    Case,
    cases,
    measure,
    sufficient,
)
from experiments.shortlist.stored import Scored
from experiments.statistics.difference import TOO_LITTLE
from experiments.tasks import TASKS

LENGTHS = (1, 2, 3)
HEADINGS = ("list by", *(f"best in the first {k}" for k in LENGTHS), *(f"regret at {k}, points" for k in LENGTHS))
INTRODUCTION = f"""\
# Shortlists, measured

For each data set of the [corpus](corpus.md), a list ranks the pretrained networks that were trained on it. The tables
show on how many data sets the best network was within the first k, and the regret: the mean score in points that was
lost by training only the first k. Networks of equal values come in random order, so that numbers can be fractions.
[Which backbones to try first](guides/shortlist.md#what-a-list-is-worth) explains the lists. `python -m
experiments.shortlist --measured docs/shortlist-measured.md` wrote this page from `results/corpus.csv` and
`results/shortlist.csv`, which `--record` writes.

The best network is the one with the highest mean score of its trainings. Where networks are nearly equal, that is
partly chance, and no list can find it: every list then has some regret. Weights without a published accuracy, such as a
file of your own, come last in `static`. Data sets are left out on which no network gets {100 * LEARNED:.0f}% of the way
from the score of always answering with the most frequent class to 100.

A table says something about other data sets from {FEWEST_SETS} data sets with {FEWEST_NETWORKS} networks each on. With
fewer, "{TOO_LITTLE}" stands above it: it only shows what the corpus has.
"""


def write(folder: Path, output: Path) -> Path:
    """Write the page for the corpus in a folder. Returns its path. Raises BadInput for a damaged corpus."""
    rows, scored = Corpus(folder).rows(), stored.read(folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text(rows, scored))
    err.print(f"wrote {output}")
    return output


def text(rows: Sequence[CorpusRow], scored: Sequence[Scored]) -> str:
    """The page as Markdown: a section for each task and protocol with data sets that have two networks."""
    sections = []
    for task in TASKS:
        for protocol in dict.fromkeys(row.protocol for row in rows if row.task == task and row.protocol != SCRATCH):
            found = cases(rows, scored, task, protocol)
            if found:
                sections.append(section(f"{task}, `{protocol}`", found))
    none = ["No data set of the corpus has trainings of two pretrained networks yet.\n"]
    return "\n".join([INTRODUCTION, *(sections or none)])


def section(title: str, found: Sequence[Case]) -> str:
    """The table of a task and protocol."""
    sets = ", ".join(f"{len(case.truth)} on {case.set}" for case in found)
    lines = [f"## {title}", "", f"Pretrained networks: {sets}."]
    if not sufficient(found):
        lines[-1] += f" {TOO_LITTLE.capitalize()}."
    lines += ["", markdown_row(HEADINGS), markdown_row(["---"] * len(HEADINGS))]
    by_length = [{one.score: one for one in measure(found, k)} for k in LENGTHS]
    for name in by_length[0]:
        measured = [by_name[name] for by_name in by_length]
        hits = (f"{one.hits:.3g} of {one.sets}" for one in measured)
        lines.append(markdown_row([name, *hits, *(points(one.regret) for one in measured)]))
    return "\n".join([*lines, ""])
