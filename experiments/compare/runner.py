"""Runs a comparison: chooses settings if `tune` is set, trains all cells, and writes `comparison.json` and the report.

All trainings of a task have the same arguments except backbone and seed, and the settings that are chosen for each
backbone. `comparison.json` describes all trainings and is rewritten after each of them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.progress import track

from backbones.errors import BadInput, UserError, first_line, reason_lines
from backbones.pretraining import group_of_record
from engine.console import err
from engine.record import command_line, write_json
from engine.schema import SCHEMA
from experiments.compare.cells import comparison_cells, shared_settings, tuned_cells
from experiments.compare.config import CompareConfig
from experiments.compare.deployment import measure_formats
from experiments.corpus.add import add_run
from experiments.corpus.rows import Corpus
from experiments.jobs.arguments import SharedSettings, shared_arguments
from experiments.jobs.cell import Cell
from experiments.jobs.checkpoints import kept, trim
from experiments.jobs.local import Outcome, finished
from experiments.jobs.lock import only_one, resumable
from experiments.jobs.progress import ProgressDisplay
from experiments.jobs.runners import create_runner
from experiments.jobs.scoring import score_on_split
from experiments.jobs.timing import time_alone
from experiments.records import read_record
from experiments.report.results import FinishedRun
from experiments.tasks import TASKS

if TYPE_CHECKING:
    from experiments.compare.tuning import Tuned

PAGE_SHARE = 20  # the page is written again after this many times the time that it took


@dataclass
class Entry:
    """A cell of the comparison and its outcome, which is None until the training has ended.

    Attributes:
        budget: the number of epochs that the baseline has; None if there is only one budget.
        group: the group of pretraining that its record names; None until the training has succeeded.
        base: the cell with the recipe's settings, where tuning chose others.
    """

    cell: Cell
    outcome: Outcome | None = None
    budget: int | None = None
    group: str | None = None
    base: Cell | None = None

    def as_dict(self, folder: Path) -> dict[str, Any]:
        """The entry as the `comparison.json` in this folder stores it."""
        outcome = self.outcome
        return {
            "task": self.cell.task,
            "backbone": self.cell.config.backbone,
            "group": self.group,
            "neck": self.cell.neck,
            "seed": self.cell.config.seed,
            "lr": self.cell.config.lr,
            "epochs": self.cell.config.epochs,
            "budget": self.budget,
            "key": self.cell.key,
            "folder": self.cell.folder_in(folder / "cells").relative_to(folder).as_posix(),
            "status": "pending" if outcome is None else "failed" if outcome.error else "done",
            "error": outcome.error if outcome else None,
            "seconds": outcome.seconds if outcome else None,
        }


def compare(config: CompareConfig, task_arguments: dict[str, list[str]]) -> Path:
    """Run the comparison, except for trainings that are finished already. Returns the path of the report.

    Args:
        config: settings of the comparison.
        task_arguments: for each task, additional arguments of its train command.

    Raises UserError before the first training for wrong arguments, and BadInput after the report is written if
    trainings failed.
    """
    config.check()
    tasks = config.tasks or [task for task in TASKS if task in task_arguments] or list(TASKS)
    config = replace(config, tasks=tasks)
    config.metric_of(tasks)  # raises for a metric that cannot be compared
    shared = {task: shared_arguments(SharedSettings.of(config), task, task_arguments.get(task, [])) for task in tasks}
    if other_tasks := task_arguments.keys() - set(tasks):
        raise UserError(f"there are settings for {', '.join(sorted(other_tasks))}, which --tasks leaves out")
    folder = Path(config.output)
    cells, budgets = comparison_cells(config, shared, folder)
    if config.dry_run:
        from experiments.compare.estimate import print_estimate
        from experiments.compare.planning import places, print_plan

        trials = tuned_cells(cells, budgets) if config.tune else []
        per_seed = print_estimate(cells, folder, [(cell, config.tune) for cell, _ in trials], config.keep)
        for task, metric in config.metric_of(tasks).items():
            print_plan(task, metric, places(folder, task, config.pilot), len(config.backbones), per_seed[task])
        return folder
    if config.corpus is not None:
        Corpus(Path(config.corpus)).rows()  # raises for a damaged one, before the first training
    with only_one(folder) as lock, resumable():
        return ComparisonRunner(config, folder, lock).run(cells, budgets)


def trials_of_each(tune: int) -> int:
    """Number of trainings that choose the settings of a backbone, in both rounds."""
    from experiments.compare.tuning import finalists  # imports optuna

    return tune + finalists(tune)


class ComparisonRunner:
    """Runs a comparison in a folder.

    Args:
        config: settings of the comparison.
        folder: where everything is written.
        lock: the folder's lock, which trainings inherit.
    """

    def __init__(self, config: CompareConfig, folder: Path, lock: IO[str]) -> None:
        self.config, self.folder = config, folder
        self.runner = create_runner(config.runner, config.slots, folder, lock)
        self.metrics = config.metric_of(config.tasks)
        self.page_written, self.page_seconds = 0.0, 0.0  # when the page was last written, and how long it took
        self.tuned: list[Tuned] = []
        self.not_added: dict[str, str] = {}  # training -> why it is not in the corpus

    def run(self, cells: Sequence[Cell], budgets: Sequence[int | None]) -> Path:
        """Choose settings, train the cells that are not finished, and write the report; returns its path.

        Args:
            cells: the trainings.
            budgets: the budget of each training, see `Entry`.
        """
        from experiments.report.writer import write_report

        to_tune = tuned_cells(cells, budgets) if self.config.tune else []
        trials = len(to_tune) * trials_of_each(self.config.tune) if to_tune else 0
        with ProgressDisplay(trials + len(cells), self.config.slots) as display:
            chosen = self.tune(to_tune, display)
            entries = []
            for cell, budget in zip(cells, budgets, strict=True):
                tuned = chosen.get((cell.task, cell.config.backbone, budget))
                entries.append(Entry(tuned.applied(cell) if tuned else cell, budget=budget, base=cell))
            self.write_comparison(entries)
            for entry, outcome in self.runner.map(lambda entry: self.train(entry.cell, display), entries):
                entry.outcome, entry.group = outcome, None if outcome.error else self.group(entry.cell)
                self.write_comparison(entries)
                self.add_to_corpus(entry)
                self.write_page()
        self.check_data(entries)
        time_alone([cell.folder_in(self.folder / "cells") for cell in self.finished_cells(entries)])
        if self.config.formats:
            measure_formats(self.finished_cells(entries), self.folder, self.config.formats)
        unscored = self.score_test_split(entries)
        for cell in self.finished_cells(entries):
            trim(cell.folder_in(self.folder / "cells"), kept(self.config.keep))
        report = write_report(self.folder)
        failed = {
            entry.cell.name: entry.outcome.error or "" for entry in entries if entry.outcome and entry.outcome.error
        }
        self.raise_failures(len(entries), failed, unscored, report)
        return report

    def raise_failures(self, total: int, failed: Mapping[str, str], unscored: Mapping[str, str], report: Path) -> None:
        """Raise one BadInput for all that went wrong.

        Args:
            total: number of trainings.
            failed: training -> why it failed.
            unscored: training -> why it has no score on the test split.
            report: has the rest.
        """
        parts = []
        for failures, what in (
            (failed, f"failed; the log of a training is next to its folder in {self.folder / 'cells'}"),
            (unscored, f"could not be scored on the split {self.config.test_split}"),
            (self.not_added, f"could not be added to the corpus in {self.config.corpus}"),
        ):
            if failures:
                parts.append(f"{len(failures)} of {total} trainings {what}:\n{reason_lines(failures)}")
        if parts:
            rest = f"The rest is in {report}. To try again, run the same command."
            raise BadInput("\n".join([*parts, rest]))

    def check_data(self, entries: Sequence[Entry]) -> None:
        """Raise BadInput if trainings of one task read different files, because the data changed between them."""
        first: dict[tuple[str, int], tuple[str, dict[str, Any]]] = {}
        for entry in entries:
            if entry.outcome is not None and not entry.outcome.error:
                task, name = entry.cell.task, entry.cell.name
                fingerprint = self.record(entry.cell)["dataset"]["fingerprint"]
                # Each seed of `resplit` has its own division into training and validation images, and each seed with
                # `data.fraction` its own training images.
                config = entry.cell.config
                kind = (task, config.seed if self.config.resplit or config.data.fraction < 1 else 0)
                first_name, first_fingerprint = first.setdefault(kind, (name, fingerprint))
                if fingerprint != first_fingerprint:
                    raise BadInput(
                        f"{first_name} and {name} read different files: the data changed between the two trainings. "
                        f"Delete the older one in {self.folder / 'cells'} and run the same command to train it again"
                    )

    def add_to_corpus(self, entry: Entry) -> None:
        """Add a training that has finished to the corpus, if one is named."""
        if self.config.corpus is None or entry.outcome is None or entry.outcome.error:
            return
        folder = entry.cell.folder_in(self.folder / "cells")
        try:
            add_run(Corpus(Path(self.config.corpus)), entry.cell, folder, base=entry.base, tune=self.config.tune)
        except BadInput as error:  # the other trainings go on
            self.not_added[entry.cell.name] = first_line(error)

    def write_page(self) -> None:
        """Write the page with what has finished, unless writing it would take more than a twentieth of the time."""
        from experiments.report.writer import write_page

        started = time.monotonic()
        if started - self.page_written > PAGE_SHARE * self.page_seconds:
            write_page(self.folder)
            self.page_written = time.monotonic()
            self.page_seconds = self.page_written - started

    def score_test_split(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Score the finished trainings on the test split, if there is one. Returns the failures by training."""
        split, failures = self.config.test_split, {}
        if split is None:
            return {}
        for cell in track(self.finished_cells(entries), f"scoring on {split}", console=err, transient=True):
            reason = score_on_split(cell.task, cell.folder_in(self.folder / "cells"), split, self.config.device)
            if reason is not None:
                failures[cell.name] = reason
        return failures

    @staticmethod
    def finished_cells(entries: Sequence[Entry]) -> list[Cell]:
        """The trainings that ended without an error."""
        return [entry.cell for entry in entries if entry.outcome is not None and not entry.outcome.error]

    def train(self, cell: Cell, display: ProgressDisplay) -> Outcome:
        """Train a cell, unless it is finished already; returns its outcome."""
        run_folder = cell.folder_in(self.folder / "cells")
        outcome = finished(cell, run_folder)
        display.start(cell.name, is_finished=outcome is not None)
        if outcome is None:
            outcome = self.runner.train(cell, run_folder, display.show_line)
            if not outcome.error:
                trim(run_folder, kept(self.config.keep) | self.needed_later())
        display.end(outcome.seconds, outcome.error or self.score_text(cell))
        return outcome

    def needed_later(self) -> set[str]:
        """Checkpoints that are needed until the end, to measure costs or to score the test split."""
        config = self.config
        needed = config.test_split or config.formats or config.slots > 1 or config.runner != "local"
        return {"last"} if needed else set()

    def tune(
        self, cells: Sequence[tuple[Cell, int | None]], display: ProgressDisplay
    ) -> dict[tuple[str, str, int | None], Tuned]:
        """Choose settings for these trainings and budgets. Returns the result by task, backbone and budget."""
        if not cells:
            return {}
        from experiments.compare.tuning import Tuner  # imports optuna

        tuner = Tuner(self.folder / "trials", self.runner, self.config.tune, self.metrics, self.score, display)
        found = dict(self.runner.map(lambda item: tuner.tune(*item), cells))
        self.tuned = [found[item] for item in cells]
        return {(tuned.cell.task, tuned.cell.config.backbone, tuned.budget): tuned for tuned in self.tuned}

    def record(self, cell: Cell) -> dict[str, Any]:
        """Read the record of a finished cell."""
        return read_record(cell.folder_in(self.folder / "cells"))

    def group(self, cell: Cell) -> str:
        """The group of pretraining of a finished cell."""
        record = self.record(cell)
        return group_of_record(record["pretrained"], record["backbone"])

    def score_text(self, cell: Cell) -> str:
        """Format the score of a finished cell, such as `top1 71.2`."""
        value = self.score(cell, self.folder / "cells")
        return f"{self.metrics[cell.task]} " + ("--" if value is None else f"{100 * value:.1f}")

    def score(self, cell: Cell, folder: Path) -> float | None:
        """The score of a cell that was finished in a folder, a fraction; None if it is undefined."""
        run = FinishedRun.of(cell.folder_in(folder), self.metrics[cell.task])
        return None if run.score != run.score else run.score

    def write_comparison(self, entries: Sequence[Entry]) -> None:
        """Write `comparison.json`."""
        config = self.config
        same, differing = shared_settings([entry.cell for entry in entries])
        write_json(
            self.folder / "comparison.json",
            {
                "version": SCHEMA,
                "command_line": shlex.join(command_line()),
                "baseline": config.baseline_name,
                "protocol": config.protocol,
                "metrics": self.metrics,
                "resplit": config.resplit,
                "budgets": config.budgets,
                "equal": config.equal,
                "test_split": config.test_split,
                "shared": same,
                "differs": differing,
                "learning_rates": [],  # of comparisons by earlier versions, which had the flag --lrs
                "tuning": [tuned.as_dict() for tuned in self.tuned],
                "cells": [entry.as_dict(self.folder) for entry in entries],
            },
        )
