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

from backbones.errors import BadInput, UserError, first_line, reason_lines, with_flags
from backbones.weight_files import weight_file
from engine.console import each_warning_once, err, out
from experiments.corpus.add import named_weights, set_name
from experiments.corpus.rows import Corpus
from experiments.jobs.arguments import SharedSettings, shared_arguments
from experiments.jobs.cell import Cell
from experiments.jobs.lock import only_one, resumable
from experiments.jobs.progress import duration
from experiments.shortlist import stored
from experiments.shortlist.config import ShortlistConfig
from experiments.shortlist.downloads import Downloads
from experiments.shortlist.ranking import cases_of, order, ranked
from experiments.shortlist.static import Candidate, candidates
from experiments.shortlist.stored import SCORES, Scored
from experiments.shortlist.tables import show_evidence, show_scores, show_static, write_static

log = logging.getLogger(__name__)


def shortlist(config: ShortlistConfig, train_arguments: list[str]) -> list[str]:
    """Rank the candidates and print the list. Returns the names of the shortlist; none with `measured`.

    Args:
        config: settings.
        train_arguments: additional arguments of the task's train command.

    Raises UserError for wrong settings, and BadInput if no candidate could be scored. Others that failed are reported.
    """
    if config.measured is not None:
        from experiments.shortlist.page import write

        write(Path(config.corpus), Path(config.measured))
        return []
    found = listed(config)
    show_static(found, write_static(found, Path(config.output)))
    failures: dict[str, str] = {}
    scored: list[Scored] = []
    cases = cases_of(config)  # raises before anything is computed
    if config.score:
        with only_one(Path(config.output)), resumable(), each_warning_once():
            scored, failures = score_all(config, found, train_arguments)
        cases = cases_of(config)  # with the scores that were added
    ranking = order(config, found, scored, cases)
    if config.score:
        show_scores(config, found, scored, ranking)
        show_evidence(config, cases)
    chosen = [name for name in ranking if name not in failures][: config.first]
    if failures:
        lines = reason_lines(failures)
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
    folder, downloads = Path(config.output), Downloads(1e9 * config.cache_gb)
    scored: list[Scored] = []
    failures: dict[str, str] = {}
    for number, candidate in enumerate(found, 1):
        place = f"[{number}/{len(found)}] {candidate.name}"
        try:
            with downloads.of(candidate.name):
                one, is_new = score(config, candidate, cell_of(config, candidate, train_arguments))
        except UserError as error:
            failures[candidate.name] = first_line(type(error)(with_flags(error)))
        # A network that cannot run at this size, or needs more memory than there is.
        except (RuntimeError, ValueError, MemoryError) as error:
            failures[candidate.name] = f"{type(error).__name__}: {first_line(error)}"
        else:
            scored.append(one)
            shown = ", ".join(f"{name} {value:.3f}" for name, value in one.scores.items())
            err.print(f"{place}: {shown}, {duration(one.seconds) if is_new else 'scored before'}", markup=False)
            stored.write(folder, scored)
            if config.record:
                stored.record(Corpus(Path(config.corpus)), [one])
        if candidate.name in failures:
            err.print(f"{place}: {failures[candidate.name]}", markup=False)
        downloads.trim(ranked(scored, config.rank_by if config.rank_by in SCORES else "LogME"))
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
    computed = compute(config.task, cell.config, config.images)
    features = computed.features
    scores = all_scores(features, is_dense=config.task != "classification", seed=config.seed)
    one = Scored(
        task=config.task,
        set=set_name(cell),
        train_fingerprint=computed.fingerprint,
        backbone=candidate.name,
        weights=named_weights(computed.weights),
        weights_sha256=computed.sha256,
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
