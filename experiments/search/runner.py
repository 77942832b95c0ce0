"""Runs a search: samples networks, trains each as an ordinary cell, and reports them.

The objective is that of MnasNet and EfficientNet, score * (cost / target)^w with w = -0.07 (arXiv:1905.11946, section
4). The target is the base's cost. Another target would multiply all values by the same number.
"""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from backbones.architecture import architecture_of
from backbones.errors import BadInput, unwritable
from engine.console import out
from experiments.costs.meter import Meter
from experiments.jobs.cell import HOLDOUT, Cell
from experiments.jobs.checkpoints import trim
from experiments.jobs.local import Outcome, Pruned, finished
from experiments.jobs.lock import resumable
from experiments.jobs.progress import ProgressDisplay
from experiments.jobs.pruning import SCORE, pruning_callback
from experiments.jobs.runner import Runner
from experiments.jobs.runners import create_runner
from experiments.jobs.study import StudyFolder, training_arguments
from experiments.records import read_record
from experiments.report.formatting import billions, percent
from experiments.search import settings
from experiments.search.config import SearchConfig
from experiments.search.report import TrialResult, best_trials, draw_front, trials_table, write_trials
from experiments.search.retraining import retraining_command
from experiments.search.space import Space, describe
from experiments.search.trial_storage import REPEATS, REPLACES, RunningTrial, TrialStorage
from experiments.tasks import TASKS

MOST_FAILURES = 3  # failed trials, without any success, after which the search ends
POLL = 1.0  # seconds between looks at the trials of other processes
COST = {"macs": "macs", "latency": "latency_ms"}
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def search(config: SearchConfig, train_arguments: Sequence[str]) -> None:
    """Run the search, except for trials that have ended already. `train_arguments` are for the task's train command.

    Raises UserError before the first training for wrong arguments, or others than the search was started with. Raises
    BadInput where data are absent or bad, or the first trainings all fail.
    """
    shared = training_arguments(config, train_arguments, "search")
    base = settings.search_cell(config, shared, config.base)
    settings.is_stored(config, base)  # raises for other settings, before data are read
    with resumable():
        Search(config, shared, base).run()


class Search:
    """A search in the folder `config.output`.

    Args:
        config: settings of the search.
        shared: arguments of all trainings.
        base: the training of the base network.
    """

    def __init__(self, config: SearchConfig, shared: Sequence[str], base: Cell) -> None:
        self.config, self.shared = config, shared
        self.metric, self.cost = TASKS[config.task].metric, COST[config.cost]
        self.folder = StudyFolder(Path(config.output))
        self.space = Space(architecture_of(config.base))
        self.meter, self._measuring = Meter(base, timed=config.cost == "latency"), threading.Lock()
        self._writing = threading.Lock()
        target = self.meter.measure(base)[self.cost]
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.folder.path, error) from error
        self.trials = TrialStorage(config, self.folder.path, self.space, base.config.epochs)
        with self.trials.locked():
            if not settings.is_stored(config, base):
                settings.store(config, base, target)
            self.target = settings.stored_target(config)

    def run(self) -> None:
        """Train until the search has `config.trials` trials, including those of other processes, and report."""
        slots = self.config.slots
        with ProgressDisplay(self.config.trials, slots) as display:
            display.done = display.reused = len(self.trials.in_states(*STATES))
            runner = create_runner(self.config.runner, slots, self.folder.path)  # each trial has a lock of its own
            for _ in runner.map(lambda slot: self.train_trials(runner, display), range(slots)):
                pass
        self.report()

    def train_trials(self, runner: Runner, display: ProgressDisplay) -> None:
        """Train one trial after the other until the search has enough. Several threads may do so."""
        while True:
            self.check_failures()
            running = self.trials.begin_next()
            if running is not None:
                display.start(f"trial {running.number}")
                with running.lock:
                    outcome, result = self.train(running, runner, display.show_line)
                display.end(outcome.seconds, result, len(self.trials.in_states(*STATES)))
                with self._writing:
                    self.write_files()
            elif self.trials.in_states(TrialState.RUNNING):
                display.start("waiting for other trials")
                time.sleep(POLL)
            else:
                return

    def train(self, running: RunningTrial, runner: Runner, show_line: Callable[[str], None]) -> tuple[Outcome, str]:
        """Train a trial's network, or resume its training; returns the outcome, and the result in words."""
        trial, study = running.trial, self.trials.study
        cell = self.cell(running)
        run_folder = self.folder.run_folder(cell)
        with self._measuring:
            cost = self.meter.measure(cell)
        trial.set_user_attr("cost", cost)
        started = time.monotonic()
        try:
            report_line = pruning_callback(
                trial,
                cell,
                run_folder,
                self.metric,
                lambda score: self.objective(score, cost[self.cost]),
                show_line,
                self.config.prune,
            )
            outcome = finished(cell, run_folder) or runner.train(cell, run_folder, report_line, running.lock)
        except Pruned:
            trim(run_folder)
            outcome = Outcome(time.monotonic() - started)
            trial.set_user_attr("seconds", outcome.seconds)
            study.tell(trial, state=TrialState.PRUNED)
            return outcome, f"pruned at {self.metric} {percent(trial.user_attrs[SCORE])}"
        if not outcome.error:
            trim(run_folder)
        trial.set_user_attr("seconds", outcome.seconds)
        record = {} if outcome.error else read_record(run_folder)
        score = record["metrics"][self.metric] if record else None
        if score is None:
            trial.set_user_attr("error", outcome.error or f"its {self.metric} is undefined")
            study.tell(trial, state=TrialState.FAIL)
            return outcome, f"failed: {trial.user_attrs['error']}"
        trial.set_user_attr(SCORE, score)
        is_front = self.config.objective == "front"
        study.tell(trial, [score, cost[self.cost]] if is_front else self.objective(score, cost[self.cost]))
        return outcome, f"{self.metric} {percent(score)}, {billions(cost['macs'])}"

    def cell(self, running: RunningTrial) -> Cell:
        """Store a trial's network and return its training."""
        network = self.space.architecture(running.trial.params)
        name = self.folder.save_network(str(running.number), network)
        return settings.search_cell(self.config, self.shared, name)

    def objective(self, score: float, cost: float) -> float:
        """Return the value that is maximised."""
        return score * (cost / self.target) ** self.config.weight

    def check_failures(self) -> None:
        """Raise BadInput if all trials so far have failed, and there are at least MOST_FAILURES of them."""
        failed = self.trials.in_states(TrialState.FAIL)
        if len(failed) >= MOST_FAILURES and not self.trials.in_states(TrialState.COMPLETE, TrialState.PRUNED):
            raise BadInput(
                f"the first {len(failed)} trainings all failed. The last error: {failed[-1].user_attrs.get('error')}\n"
                f"Their logs are in {self.folder.path / 'cells'}. Fix the cause, delete {self.folder.path}, and search "
                "again."
            )

    def results(self) -> list[TrialResult]:
        """Return all trials."""
        counted = {trial.number for trial in self.trials.counted()}
        return [self._result(trial, trial.number in counted) for trial in self.trials.all()]

    def _result(self, trial: FrozenTrial, is_counted: bool) -> TrialResult:
        attributes, cost = trial.user_attrs, trial.user_attrs.get("cost", {})
        has_objective = is_counted and trial.state == TrialState.COMPLETE and self.config.objective == "weighted"
        is_sampled = trial.params.keys() == self.space.choices.keys()  # else it was killed while it was sampled
        relations = [f"repeats trial {attributes[REPEATS]}"] if REPEATS in attributes else []
        relations += [f"continues trial {attributes[REPLACES]}"] if REPLACES in attributes else []
        state = STATES.get(trial.state, trial.state.name.lower())
        return TrialResult(
            number=trial.number,
            state=state if is_counted else "repeat" if relations else "stopped",
            score=attributes.get(SCORE, math.nan),
            **{name: cost.get(name, math.nan) for name in ("macs", "params", "latency_ms")},
            objective=trial.values[0] if has_objective else math.nan,
            seconds=attributes.get("seconds", math.nan),
            is_base=trial.params == self.space.base_parameters,
            architecture=describe(self.space.architecture(trial.params)) if is_sampled else "",
            note="; ".join([*relations, *([attributes["error"]] if "error" in attributes else [])]),
        )

    def write_files(self) -> None:
        """Write `trials.csv` and `front.png`."""
        results = self.results()
        write_trials(results, self.folder.path / "trials.csv")
        title = f"{self.config.task}: variants of {self.config.base}"
        draw_front(results, self.cost, self.metric, title, self.folder.path / "front.png")

    def report(self) -> None:
        """Write the files, and print the best networks and the command that retrains the first of them."""
        self.write_files()
        results, folder = self.results(), self.folder.path
        best = best_trials(results, self.cost)
        if not best:
            raise BadInput(f"no trial has a score: the reasons are in {folder / 'trials.csv'}")
        out.print(trials_table(results, self.cost, self.metric, folder))
        command = retraining_command(self.config, self.shared, self.folder, best[0].number, self.meter.side)
        out.print(
            f"Each score is of one training, on the {100 * HOLDOUT:.0f}% of the training images that are held out. The "
            "best of many trials is partly chance. To train the first of these networks again on all images, next to "
            "the base and the base scaled to the same cost, and score them on the validation split, run:\n"
            f"{shlex.join(command)}\n"
            f"{folder / 'trials.csv'} and {folder / 'front.png'}",
            markup=False,
        )
