"""Tables that `shortlist` prints, and the file with all candidates."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from engine.console import out
from experiments.jobs.progress import duration
from experiments.report.formatting import millions, percent, points
from experiments.shortlist import evidence, stored
from experiments.shortlist.config import ShortlistConfig
from experiments.shortlist.static import SOURCE, Candidate
from experiments.shortlist.stored import SCORES, Scored
from experiments.statistics.difference import TOO_LITTLE

SHOWN = 40  # most rows of a printed table


def write_static(found: Sequence[Candidate], folder: Path) -> Path:
    """Write all candidates with their published facts to `static.csv`. Returns its path."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["backbone", "top1", "params", "license"])
    for one in found:
        facts = ("" if value is None else f"{value:g}" for value in (one.top1, one.params))
        table.writerow([one.name, *facts, one.license or ""])
    return stored.save(folder / "static.csv", text.getvalue())


def show_static(found: Sequence[Candidate], file: Path) -> None:
    """Print the static ranking, which `file` has too."""
    table = _table("backbone", "ImageNet top-1, %", "parameters", "licence of the weights")
    for number, one in enumerate(found[:SHOWN], 1):
        table.add_row(str(number), one.name, percent(one.top1), _size(one), one.license or "--")
    _print(table)
    more = f"; all are in {file}" if len(found) > SHOWN else ""
    out.print(f"{len(found)} candidates by published accuracy, from {SOURCE}{more}")


def show_scores(
    config: ShortlistConfig, found: Sequence[Candidate], scored: Sequence[Scored], ranking: Sequence[str]
) -> None:
    """Print all scores in the order of the list, with the rank by published accuracy beside."""
    by_name = {one.backbone: one for one in scored}
    static = {one.name: number for number, one in enumerate(found, 1)}
    sizes = {one.name: _size(one) for one in found}
    names = [name for name in SCORES if any(name in one.scores for one in scored)]
    table = _table("backbone", *names, "static rank", "parameters", "time")
    for number, name in enumerate((one for one in ranking if one in by_name), 1):
        one = by_name[name]
        values = (f"{one.scores[score]:.3f}" if score in one.scores else "--" for score in names)
        table.add_row(str(number), name, *values, str(static[name]), sizes[name], duration(one.seconds))
    _print(table)
    total = sum(one.seconds for one in scored)
    out.print(
        f"{len(scored)} candidates on at most {config.images} training images, by {config.rank_by}, in "
        f"{duration(total)}. k-NN, ridge and logistic are accuracies on training images that were held out, in five "
        "folds; higher is better for all. The static rank is that of published accuracy"
    )


def show_evidence(config: ShortlistConfig, cases: Sequence[evidence.Case]) -> None:
    """Print how good shortlists of this length would have been on the data sets of the corpus."""
    found = evidence.sufficient(cases)
    about = f"{evidence.counts(found or cases)} in {config.corpus}, {config.task}, {config.protocol}"
    if not found:
        out.print(
            f"chance that the best is within the first {config.first}, and regret: {TOO_LITTLE} ({about}; at least "
            f"{evidence.FEWEST_SETS} data sets with {evidence.FEWEST_NETWORKS} networks each are needed)"
        )
        return
    table = Table("list by", f"best within the first {config.first}", "mean regret, points")
    for one in evidence.measure(found, config.first):
        low, high = (100 * value for value in one.interval)
        chance = f"{100 * one.hits / one.sets:.0f}% ({low:.0f} to {high:.0f}%; {one.hits:.3g} of {one.sets})"
        table.add_row(one.score, chance, points(one.regret))
    out.print(table)
    out.print(f"measured on {about}, each data set left out in turn; in parentheses, the 95% interval of the chance")


def _table(name: str, *headings: str) -> Table:
    table = Table("", name, box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    for column in table.columns:
        column.no_wrap = True
    return table


def _print(table: Table) -> None:
    """Print a table as wide as its content, also where the output is no terminal, whose width is unknown."""
    width = Measurement.get(out, out.options.update(max_width=1000), table).maximum
    Console(file=out.file, width=width, highlight=False).print(table)


def _size(candidate: Candidate) -> str:
    return "--" if candidate.params is None else millions(candidate.params)
