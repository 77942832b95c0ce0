"""The trainings of a comparison: which they are, in what order they run, and what has become of them.

Every training of a task gets the same arguments but for backbone and seed, and the learning rate where one is chosen
for each backbone. `comparison.json` tells of all of them and is rewritten as each ends.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from backbones.errors import BadInput, UserError
from engine.record import command_line, write_json
from engine.schema import SCHEMA, flat
from experiments.compare.config import CompareConfig
from experiments.jobs.arguments import SharedSettings, shared_arguments
from experiments.jobs.cell import HOLDOUT, Cell, with_flags
from experiments.jobs.local import Outcome, finished, run
from experiments.jobs.lock import only_one
from experiments.jobs.progress import Board
from experiments.records import read_record
from experiments.tasks import TASKS

SHORTER = 3  # a learning rate is chosen in a third of the epochs


@dataclass
class Entry:
    """A cell and what has become of it; `outcome` is None as long as nothing has."""

    cell: Cell
    lr: float | None  # chosen for its backbone; None for the recipe's
    outcome: Outcome | None = None

    def as_dict(self) -> dict[str, Any]:
        """As `comparison.json` tells it."""
        outcome = self.outcome
        return {
            "task": self.cell.task,
            "backbone": self.cell.config.backbone,
            "neck": self.cell.neck,
            "seed": self.cell.config.seed,
            "lr": self.cell.config.lr,
            "key": self.cell.key,
            "folder": f"cells/{self.cell.name}",
            "status": "pending" if outcome is None else "failed" if outcome.error else "done",
            "error": outcome.error if outcome else None,
            "seconds": outcome.seconds if outcome else None,
        }


def compare(config: CompareConfig, of_tasks: dict[str, list[str]]) -> Path:
    """Run the comparison, or what is left of it; returns the path of the report.

    Raises UserError before anything is trained where the arguments are wrong, and BadInput at the end, report written,
    where trainings failed.
    """
    config.check()
    config = replace(config, tasks=config.tasks or [task for task in TASKS if task in of_tasks] or list(TASKS))
    shared = {task: shared_arguments(SharedSettings.of(config), task, of_tasks.get(task, [])) for task in config.tasks}
    if stray := of_tasks.keys() - set(config.tasks):
        raise UserError(f"there are settings for {', '.join(sorted(stray))}, which --tasks leaves out")
    plan = [
        Cell(task, (*shared[task], "--backbone", backbone, "--seed", str(seed)))
        for seed in range(config.seeds)
        for task in config.tasks
        for backbone in config.backbones
    ]
    for cell in plan:
        _ = cell.config  # wrong settings are told before the first training
    check_backbones(config.backbones)
    folder = Path(config.output)
    if config.dry_run:
        from experiments.compare.estimate import print_estimate

        print_estimate([*trials(config, shared), *plan], folder)
        return folder
    with only_one(folder) as lock:
        try:
            return Grid(config, folder, lock).run(shared, plan)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command continues where it was") from None


class Grid:
    """A comparison that runs in `folder`."""

    def __init__(self, config: CompareConfig, folder: Path, lock: IO[str]) -> None:
        self.config, self.folder, self.lock = config, folder, lock
        self.choices: list[dict[str, Any]] = []

    def run(self, shared: dict[str, tuple[str, ...]], plan: Sequence[Cell]) -> Path:
        """Choose learning rates where asked, train what is not finished, and report."""
        from experiments.report.writer import write_report

        attempts = trials(self.config, shared)
        with Board(len(attempts) + len(plan)) as board:
            rates = self.choose(attempts, board)
            entries = []
            for cell in plan:
                lr = rates.get((cell.task, cell.config.backbone))
                entries.append(Entry(cell if lr is None else with_flags(cell, lr=lr), lr))
            self.tell(entries)
            for entry in entries:
                entry.outcome = self.train(entry.cell, board)
                self.tell(entries)
        self.check_data(entries)
        report = write_report(self.folder)
        failed = [entry for entry in entries if entry.outcome is not None and entry.outcome.error]
        if failed:
            lines = "\n".join(f"  {entry.cell.name}: {entry.outcome.error}" for entry in failed if entry.outcome)
            raise BadInput(
                f"{len(failed)} of {len(entries)} trainings failed; the others are in {report}. Their logs are beside "
                f"their folders in {self.folder / 'cells'}; the same command trains them again.\n{lines}"
            )
        return report

    def check_data(self, entries: Sequence[Entry]) -> None:
        """Raise BadInput where trainings of one task did not read the same files: kept ones are older than a change."""
        first: dict[str, tuple[str, Any]] = {}
        for entry in entries:
            if entry.outcome is not None and not entry.outcome.error:
                task, name = entry.cell.task, entry.cell.name
                fingerprint = self.record(entry.cell)["dataset"]["fingerprint"]
                other, expected = first.setdefault(task, (name, fingerprint))
                if fingerprint != expected:
                    raise BadInput(
                        f"{other} and {name} did not read the same files, which have changed in between: "
                        f"delete the older one in {self.folder / 'cells'}, and the same command trains it again"
                    )

    def train(self, cell: Cell, board: Board) -> Outcome:
        """The outcome of a cell, trained now or earlier."""
        place = self.folder / "cells" / cell.name
        outcome = finished(cell, place)
        board.start(cell.name, known=outcome is not None)
        if outcome is None:
            outcome = run(cell, place, self.lock, board.line)
        board.end(outcome.seconds, outcome.error or self.score(cell))
        return outcome

    def choose(self, attempts: Sequence[Cell], board: Board) -> dict[tuple[str, str], float]:
        """The learning rate of each (task, backbone) that scored best on images kept out of training."""
        scores: dict[tuple[str, str], dict[float, float | None]] = {}
        for cell in attempts:
            outcome = self.train(cell, board)
            score = None if outcome.error else self.record(cell)["metrics"][TASKS[cell.task].metric]
            scores.setdefault((cell.task, cell.config.backbone), {})[cell.config.lr] = score
        chosen = {}
        for (task, backbone), by_lr in scores.items():
            known = {lr: score for lr, score in by_lr.items() if score is not None}
            if known:  # else all of them diverged, and the recipe's own rate is tried
                chosen[task, backbone] = max(known, key=lambda lr: known[lr])
            epochs = next(cell.config.epochs for cell in attempts if cell.task == task)
            told = {f"{lr:g}": score for lr, score in by_lr.items()}
            lr = chosen.get((task, backbone))
            self.choices.append({"task": task, "backbone": backbone, "lr": lr, "epochs": epochs, "scores": told})
        return chosen

    def record(self, cell: Cell) -> dict[str, Any]:
        """What a finished cell recorded."""
        return read_record(self.folder / "cells" / cell.name)

    def score(self, cell: Cell) -> str:
        """A finished cell's score in words."""
        metric = TASKS[cell.task].metric
        value = self.record(cell)["metrics"][metric]
        return f"{metric} " + ("--" if value is None else f"{100 * value:.1f}")

    def tell(self, entries: Sequence[Entry]) -> None:
        """Write `comparison.json`."""
        config = self.config
        same, differing = shared_settings([entry.cell for entry in entries])
        resnets = [name for name in config.backbones if name.startswith("resnet")]
        write_json(
            self.folder / "comparison.json",
            {
                "version": SCHEMA,
                "command_line": shlex.join(command_line()),
                "baseline": config.baseline or (resnets or config.backbones[::-1])[0],
                "protocol": config.protocol,
                "shared": same,
                "differs": differing,
                "learning_rates": self.choices,
                "cells": [entry.as_dict() for entry in entries],
            },
        )


def trials(config: CompareConfig, shared: dict[str, tuple[str, ...]]) -> list[Cell]:
    """The shorter trainings that choose learning rates, on training images alone."""
    cells = [
        Cell(task, (*shared[task], "--backbone", backbone, "--seed", "0", "--lr", f"{lr:g}"))
        for task in config.tasks
        for backbone in config.backbones
        for lr in config.lrs
    ]
    return [
        with_flags(cell, epochs=math.ceil(cell.config.epochs / SHORTER), **{"data.holdout": HOLDOUT}) for cell in cells
    ]


def shared_settings(cells: Sequence[Cell]) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """By task, the settings that all its cells share, and the names of those that differ besides backbone and seed."""
    same: dict[str, dict[str, Any]] = {}
    differing: dict[str, list[str]] = {}
    for task in dict.fromkeys(cell.task for cell in cells):
        of_cells = [dict(flat(cell.settings)) for cell in cells if cell.task == task]
        first = of_cells[0]
        equal = {name for name in first if all(other[name] == first[name] for other in of_cells)}
        same[task] = {name: value for name, value in first.items() if name in equal}
        differing[task] = [name for name in first if name not in equal | {"backbone", "seed"}]
    return same, differing


def check_backbones(names: Sequence[str]) -> None:
    """Raise UserError for a name that no network has, before hours are spent on the others."""
    import torch

    from backbones import create_backbone

    with torch.device("meta"):
        for name in names:
            create_backbone(name)
