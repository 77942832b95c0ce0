"""Which trainings of the plan the corpus has. It needs no data: commands are compared, not keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.corpus.add import ROOT, command_of, same_command
from experiments.corpus.plan import SCRATCH, PlannedCell, read_plan
from experiments.corpus.rows import CorpusRow


@dataclass(frozen=True)
class Planned:
    """A training of the plan, and whether the corpus has it: a row of the same command, in any order of the flags."""

    cell: PlannedCell
    is_finished: bool


def planned_with(file: Path, rows: Sequence[CorpusRow]) -> list[Planned]:
    """The trainings of the plan with their rows, also for networks with weight files of the user's that have any.

    Such a network is one that the plan does not name, and that has a training with the arguments of the plan.
    """
    planned = read_plan(file)
    files = {name: file for name, file in weight_files(rows).items() if name not in {cell.backbone for cell in planned}}
    by_training: dict[tuple[Any, ...], list[CorpusRow]] = defaultdict(list)
    for row in rows:
        by_training[row.task, row.protocol, row.backbone, row.seed].append(row)
    found = []
    for cell in read_plan(file, files):
        weights = files.get(cell.backbone) if cell.protocol != SCRATCH else None
        command = command_of(cell.cell_with(Path(ROOT), weights), cell.folder)
        same = by_training[cell.task, cell.protocol, cell.backbone, cell.seed]
        found.append(Planned(cell, any(same_command(command, row.command) for row in same)))
    started = {one.cell.backbone for one in found if one.is_finished}
    return [one for one in found if one.cell.backbone not in files or one.cell.backbone in started]


def weight_files(rows: Sequence[CorpusRow]) -> dict[str, str]:
    """Backbone -> name of the weight file of the user's that its last training started from."""
    return {row.backbone: row.weights.removeprefix("file:") for row in rows if row.weights.startswith("file:")}
