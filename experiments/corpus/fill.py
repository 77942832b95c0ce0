"""Trains what the corpus lacks of its plan within a time budget. It can be killed at any time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from backbones.errors import BadInput, UserError, first_line, reason_lines
from engine.console import err, out
from experiments.corpus.add import UnusableRun, add_run
from experiments.corpus.config import FillConfig
from experiments.corpus.plan import PlannedCell, read_plan
from experiments.corpus.rows import Corpus
from experiments.jobs.cell import Cell
from experiments.jobs.checkpoints import trim
from experiments.jobs.local import DamagedCell, Trainings, finished, run
from experiments.jobs.lock import only_one, resumable
from experiments.jobs.progress import duration

log = logging.getLogger(__name__)

FAILED = ".failed"  # suffix of the file that marks a training that failed; such trainings are tried again last


@dataclass(frozen=True)
class Gap:
    """A training that the corpus lacks."""

    planned: PlannedCell
    cell: Cell

    def folder_in(self, output: Path) -> Path:
        """Its run folder."""
        return self.cell.folder_in(output / "cells")


def fill(config: FillConfig) -> None:
    """Train missing cells, the oldest first, until the time is over or none is missing.

    Raises UserError for wrong settings, and BadInput for a plan or corpus that cannot be read and, at the end, if
    trainings failed.
    """
    config.check()
    deadline = time.monotonic() + 60 * config.minutes
    corpus, output = Corpus(Path(config.corpus)), Path(config.output)
    planned = read_plan(Path(config.plan), config.weights_by_backbone)
    if unknown := set(config.sets) - {cell.set for cell in planned}:
        raise UserError(f"`sets={sorted(unknown)}`: the plan has no such data sets", settings=("sets",))
    wanted = present([cell for cell in planned if not config.sets or cell.set in config.sets], Path(config.data))
    if config.dry_run:
        missing = gaps(config, corpus, wanted)
        for name in [gap.planned.name for gap in missing] or ["no training is missing"]:
            out.print(name, markup=False)
        return
    with only_one(output) as lock, resumable():
        failures = _train_all(gaps(config, corpus, wanted), corpus, output, deadline, lock)
    if failures:
        raise BadInput(
            f"{len(failures)} of the trainings failed; logs are in {output / 'cells'}\n{reason_lines(failures)}"
        )


def present(planned: list[PlannedCell], root: Path) -> list[PlannedCell]:
    """The trainings whose data set is in the folder of data sets. One warning names the others.

    Raises BadInput if it has none of them.
    """
    absent = sorted({cell.folder for cell in planned if not (root / cell.folder).is_dir()})
    if len(absent) == len({cell.folder for cell in planned}):
        raise BadInput(f"{root} has none of the folders {', '.join(absent)}: name another `data`", settings=("data",))
    if absent:
        log.warning("%s lacks %s: their trainings are left out", root, ", ".join(absent))
    return [cell for cell in planned if cell.folder not in absent]


def gaps(config: FillConfig, corpus: Corpus, planned: list[PlannedCell]) -> Iterator[Gap]:
    """The planned trainings without a row, in their order, those that failed before at the end.

    Trainings of an earlier version of the recipe do not count: their keys differ. A key needs the fingerprints of the
    data, which are read when their first training is reached. Data that cannot be read make the training fail.

    Raises UserError for a training whose settings `train` would refuse, before the first gap.
    """
    known = {row.key for row in corpus.rows()}
    failed = []
    for gap in [Gap(cell, _cell(config, cell)) for cell in planned]:
        if gap.cell.key in known:
            continue
        if _failed_file(gap.folder_in(Path(config.output))).exists():
            failed.append(gap)
        else:
            yield gap
    yield from failed


def _cell(config: FillConfig, planned: PlannedCell) -> Cell:
    try:
        cell = planned.cell(Path(config.data), config.weights_by_backbone)
        cell = replace(cell, arguments=(*cell.arguments, "--device", config.device))
        _ = cell.config  # raises for settings that `train` refuses
        return cell
    except UserError as error:
        raise type(error)(f"{config.plan}: {planned.name}: {error}", settings=error.settings) from error


def _train_all(gaps: Iterator[Gap], corpus: Corpus, output: Path, deadline: float, lock: IO[str]) -> dict[str, str]:
    """Train until the deadline, in seconds of `time.monotonic`. Returns the failures: name -> reason."""
    failures: dict[str, str] = {}
    trainings = Trainings()
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), trainings.end)
    timer.daemon = True
    timer.start()
    done, is_over = 0, False
    try:
        for gap in gaps:
            if is_over := time.monotonic() >= deadline:
                break
            reason = _train(gap, corpus, output, trainings, lock)
            if reason:
                failures[gap.planned.name] = reason
            else:
                done += 1
    except KeyboardInterrupt:
        if time.monotonic() < deadline:
            raise
        is_over = True
    finally:
        timer.cancel()
    rest = "the time is over" if is_over else "some failed" if failures else "no other is missing"
    err.print(f"{done} trainings added to {corpus.file}; {rest}")
    return failures


def _train(gap: Gap, corpus: Corpus, output: Path, trainings: Trainings, lock: IO[str]) -> str | None:
    """Train one cell, or take the one that was finished before, and add its row. Returns the reason of a failure."""
    folder = gap.folder_in(output)
    try:
        outcome = finished(gap.cell, folder)
        if outcome is None:
            outcome = run(gap.cell, folder, lock, trainings=trainings)
        reason = outcome.error
        if not reason:
            add_run(corpus, gap.cell, folder, name=gap.planned.set, place=gap.planned.folder)
            err.print(f"{gap.planned.name}: {duration(outcome.seconds)}", markup=False)
    except (DamagedCell, UnusableRun) as error:
        reason = first_line(error)
    if reason:
        _failed_file(folder).write_text(reason)
        err.print(f"{gap.planned.name}: {reason}", markup=False)
        return reason
    _failed_file(folder).unlink(missing_ok=True)
    trim(folder)
    return None


def _failed_file(folder: Path) -> Path:
    return folder.with_name(folder.name + FAILED)
