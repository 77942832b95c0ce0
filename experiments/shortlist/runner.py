"""Ranks candidates by published facts and by scores of their features, and states what that is worth.

Candidates are loaded one after the other. Each one's scores are written when they are there, so that the same command
resumes after an interrupt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.table import Table

from backbones.errors import BadInput, UserError, first_line, with_flags
from backbones.weight_files import weight_file
from engine.console import err, out
from experiments.corpus.add import set_name
from experiments.corpus.rows import Corpus
from experiments.jobs.arguments import SharedSettings, shared_arguments
from experiments.jobs.cell import Cell
from experiments.jobs.lock import only_one, resumable
from experiments.jobs.progress import duration
from experiments.report.formatting import millions, percent, points
from experiments.shortlist import evidence, stored
from experiments.shortlist.config import ShortlistConfig
from experiments.shortlist.downloads import Downloads
from experiments.shortlist.static import SOURCE, Candidate, candidates
from experiments.shortlist.stored import SCORES, STATIC, Scored

log = logging.getLogger(__name__)

SHOWN = 40  # most rows of a printed table


def shortlist(config: ShortlistConfig, train_arguments: list[str]) -> list[str]:
    """Rank the candidates and print the list. Returns the names of the shortlist; none with `measured`.

    Args:
        config: settings.
        train_arguments: additional arguments of the task's train command.

    Raises UserError for wrong settings, and BadInput, after the list is printed, if candidates failed.
    """
    if config.measured is not None:
        from experiments.shortlist.page import write

        write(Path(config.corpus), Path(config.measured))
        return []
    found = listed(config)
    show_static(found)
    failures: dict[str, str] = {}
    scored: list[Scored] = []
    ranking = [one.name for one in found]
    if config.score:
        with only_one(Path(config.output)), resumable():
            scored, failures = score_all(config, found, train_arguments)
        if config.rank_by != STATIC:
            ranking = ranked(scored, config.rank_by)
        show_scores(config, found, scored, ranking)
        show_evidence(config)
    chosen = [name for name in ranking if name not in failures][: config.first]
    if failures:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        if not chosen:
            raise BadInput(f"no candidate could be scored\n{lines}")
        log.warning("%d of %d candidates could not be scored:\n%s", len(failures), len(found), lines)
    out.print(f"shortlist: {' '.join(chosen)}", markup=False)
    if config.then == "compare":
        compare_them(config, chosen, train_arguments)
    return chosen


def listed(config: ShortlistConfig) -> list[Candidate]:
    """The candidates in the static order. Says which were left out. Raises UserError if there are none."""
    found, without = candidates(config.backbones, config.weights_by_backbone)
    if without:
        names = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
        log.warning("%d networks have no published weights and are left out: %s", len(without), names)
    if config.max_params is not None:
        limit = 1e6 * config.max_params
        unknown = [one.name for one in found if one.params is None and one.file is None]
        if unknown:
            log.warning("--max_params keeps %d networks whose size is not published", len(unknown))
        found = [one for one in found if one.params is None or one.params <= limit]
    if not found:
        raise UserError("no candidate is left: name others with --backbones, or a larger --max_params")
    return found


def score_all(
    config: ShortlistConfig, found: Sequence[Candidate], train_arguments: Sequence[str]
) -> tuple[list[Scored], dict[str, str]]:
    """Score the candidates one after the other. Returns the scores, and the failures: name -> reason."""
    cells = {one.name: cell_of(config, one, train_arguments) for one in found}
    folder, downloads = Path(config.output), Downloads(1e9 * config.cache_gb)
    scored: list[Scored] = []
    failures: dict[str, str] = {}
    for number, candidate in enumerate(found, 1):
        place = f"[{number}/{len(found)}] {candidate.name}"
        try:
            with downloads.of(candidate.name):
                one, is_new = score(config, candidate, cells[candidate.name])
        except UserError as error:
            failures[candidate.name] = first_line(type(error)(with_flags(error)))
            err.print(f"{place}: {failures[candidate.name]}", markup=False)
            continue
        scored.append(one)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in one.scores.items())
        err.print(f"{place}: {shown}, {duration(one.seconds) if is_new else 'scored before'}", markup=False)
        stored.write(folder, scored)
        order = ranked(scored, config.rank_by if config.rank_by != STATIC else "LogME")
        downloads.trim(order)
    if config.record and scored:
        results = Path(config.corpus)
        stored.write(results, stored.merged(stored.read(results), scored))
    return scored, failures


def score(config: ShortlistConfig, candidate: Candidate, cell: Cell) -> tuple[Scored, bool]:
    """The candidate's scores, and whether they were computed now. Raises UserError and BadInput as a training does."""
    from experiments.shortlist.features import compute
    from experiments.shortlist.scores import all_scores

    folder = Path(config.output) / "scores" / f"{cell.key[:12]}-{config.images}"
    known = stored.read(folder)
    if known:
        return known[0], False
    started = time.monotonic()
    features, fingerprint = compute(config.task, cell.config, config.images)
    scores = all_scores(features, is_dense=config.task != "classification", seed=config.seed)
    one = Scored(
        task=config.task,
        set=set_name(cell),
        train_fingerprint=fingerprint,
        backbone=candidate.name,
        images=len(set(features.groups.tolist())),
        image_size=str(cell.config.image_size or ""),
        scores=scores,
        seconds=time.monotonic() - started,
    )
    stored.write(folder, [one])
    return one, True


def cell_of(config: ShortlistConfig, candidate: Candidate, train_arguments: Sequence[str]) -> Cell:
    """A training of the candidate with a frozen backbone, which has all settings that features depend on."""
    shared = replace(SharedSettings.of(config), protocol="frozen", epochs=None)
    words = shared_arguments(shared, config.task, train_arguments)
    file = () if candidate.file is None else ("--pretrained", str(weight_file(candidate.file)))
    cell = Cell(config.task, (*words, "--backbone", candidate.name, *file, "--seed", str(config.seed)))
    _ = cell.config  # raises for wrong settings
    return cell


def ranked(scored: Sequence[Scored], by: str) -> list[str]:
    """Names by a score, the highest first; those without it last."""
    return [one.backbone for one in sorted(scored, key=lambda one: -one.scores.get(by, float("-inf")))]


def show_static(found: Sequence[Candidate]) -> None:
    """Print the static ranking."""
    table = _table("backbone", "ImageNet top-1, %", "parameters", "licence of the weights")
    for number, one in enumerate(found[:SHOWN], 1):
        table.add_row(str(number), one.name, percent(one.top1), _size(one), one.license or "--")
    _print(table)
    more = f"; {len(found) - SHOWN} more are not shown" if len(found) > SHOWN else ""
    out.print(f"{len(found)} candidates by published accuracy, from {SOURCE}{more}")


def show_scores(
    config: ShortlistConfig, found: Sequence[Candidate], scored: Sequence[Scored], ranking: Sequence[str]
) -> None:
    """Print all scores in the order of the list, with the rank by published accuracy beside."""
    by_name = {one.backbone: one for one in scored}
    static = {one.name: number for number, one in enumerate(found, 1)}
    names = [name for name in SCORES if any(name in one.scores for one in scored)]
    table = _table("backbone", *names, "static rank", "time")
    for number, name in enumerate((one for one in ranking if one in by_name), 1):
        one = by_name[name]
        values = (f"{one.scores[score]:.3f}" if score in one.scores else "--" for score in names)
        table.add_row(str(number), name, *values, str(static[name]), duration(one.seconds))
    _print(table)
    total = sum(one.seconds for one in scored)
    out.print(
        f"{len(scored)} candidates on at most {config.images} training images, by {config.rank_by}, in "
        f"{duration(total)}. k-NN, ridge and logistic are accuracies on training images that were held out, in five "
        "folds; higher is better for all. The static rank is that of published accuracy"
    )


def show_evidence(config: ShortlistConfig) -> None:
    """Print how good shortlists of this length would have been on the data sets of the corpus."""
    folder = Path(config.corpus)
    found = evidence.cases(Corpus(folder).rows(), stored.read(folder), config.task, config.protocol)
    networks = len(evidence.networks_of(found))
    about = f"{networks} pretrained networks on {len(found)} data sets of {folder}, {config.task}, {config.protocol}"
    if not evidence.is_enough(found):
        out.print(
            f"chance that the best is within the first {config.first}, and regret: {evidence.TOO_LITTLE} ({about}; at "
            f"least {evidence.FEWEST_NETWORKS} networks and {evidence.FEWEST_SETS} data sets are needed)"
        )
        return
    table = Table("list by", f"best within the first {config.first}", "mean regret, points")
    for one in evidence.measure(found, config.first):
        table.add_row(one.score, f"{100 * one.hits / one.sets:.0f}% ({one.hits:g} of {one.sets})", points(one.regret))
    out.print(table)
    out.print(f"measured on {about}, each data set left out in turn")


def _table(name: str, *headings: str) -> Table:
    table = Table("", name, box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    for column in table.columns:
        column.no_wrap = True
    return table


def _print(table: Table) -> None:
    """Print a table as wide as its content, also where the output is no terminal, whose width is unknown."""
    out.print(table, width=max(out.width, 110), crop=False)


def _size(candidate: Candidate) -> str:
    return "--" if candidate.params is None else millions(candidate.params)


def compare_them(config: ShortlistConfig, chosen: Sequence[str], train_arguments: Sequence[str]) -> None:
    """Train the shortlist with `experiments.compare`."""
    from experiments.compare.__main__ import main

    words = ["--tasks", config.task, "--backbones", *chosen, "--protocol", config.protocol, "--device", config.device]
    files = [f"{name}={file}" for name, file in config.weights_by_backbone.items() if name in chosen]
    words += ["--output", str(Path(config.output) / "compare"), *(["--weights", *files] if files else [])]
    if config.image_size is not None:
        words += ["--image_size", str(config.image_size)]
    if config.record:
        words += ["--corpus", config.corpus]
    for argument in train_arguments:
        if argument.startswith("--data."):
            argument = f"--data.{config.task}.{argument.removeprefix('--data.')}"
        elif argument.startswith("--"):
            argument = f"--{config.task}.{argument.removeprefix('--')}"
        words.append(argument)
    main(words)
