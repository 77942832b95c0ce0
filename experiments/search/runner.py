"""A search at work: networks are drawn, trained as ordinary cells, and told of.

What is maximised is EfficientNet's and MnasNet's objective, score * (cost / target)^w with w = -0.07 (arXiv:1905.11946,
section 4). The target is the base's cost: another one would multiply all values by the same number.
"""

from __future__ import annotations

import csv
import json
import math
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from backbones.architecture import architecture_of, counts, save
from backbones.errors import BadInput, UserError
from engine.commands import out
from engine.record import write_json
from engine.schema import flat, renamed
from experiments.costs.coefficients import of_cost
from experiments.costs.meter import Meter
from experiments.jobs.arguments import FIXED, group_arguments
from experiments.jobs.cell import HOLDOUT, Cell
from experiments.jobs.local import Outcome, Stopped, finished, run
from experiments.jobs.progress import Board
from experiments.jobs.study import training_arguments
from experiments.records import read_record
from experiments.report.formatting import billions, percent
from experiments.search.config import SearchConfig
from experiments.search.report import Found, best_of, draw_front, table_of, write_trials
from experiments.search.space import Space, words
from experiments.search.trial_storage import REPEATS, REPLACES, Running, Trials
from experiments.tasks import TASKS

SETTINGS = "search.json"
RIVAL = "base-at-its-cost"  # name of the base scaled to what the best network costs
HOPELESS = 3  # failures, before any success, that spare the other trials
POLL = 1.0  # seconds between looks at the trials of other processes
COST = {"macs": "macs", "latency": "latency_ms"}
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def search(config: SearchConfig, asked: Sequence[str]) -> None:
    """Run the search, or what is left of it. `asked` are arguments of the task's train command.

    Raises UserError before anything is trained where arguments are wrong or others than the search was begun with, and
    BadInput where data are absent or bad, or the first trainings all fail.
    """
    shared = training_arguments(config, asked, "search")
    base = cell_of(config, shared, config.base)
    check_same(config, base)
    try:
        Search(config, shared, base).run()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command continues where it was") from None


class Search:
    """A search that runs in the folder `config.output`.

    Args:
        config: of the search.
        shared: arguments of all trainings.
        base: a training of the network that is varied.
    """

    def __init__(self, config: SearchConfig, shared: Sequence[str], base: Cell) -> None:
        self.config, self.shared = config, shared
        self.metric, self.cost = TASKS[config.task].metric, COST[config.cost]
        self.folder = Path(config.output)
        self.space = Space(architecture_of(config.base))
        self.meter = Meter(base, timed=config.cost == "latency")
        target = self.meter(base)[self.cost]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--output {self.folder} cannot be written: {error.strerror}") from error
        self.trials = Trials(config, self.folder, self.space, base.config.epochs)
        with self.trials.alone():
            if check_same(config, base) is None:
                write_json(self.folder / SETTINGS, settings_of(config, base) | {"target": target})
            self.target = json.loads((self.folder / SETTINGS).read_text())["target"]

    def run(self) -> None:
        """Train until there are as many trials as asked for, those of other processes included, and report."""
        own = 0
        with Board(self.config.trials) as board:
            board.done = board.kept = len(self.trials.counted(*STATES))
            while True:
                self.check_hope()
                running = self.trials.draw()
                if running is not None:
                    board.start(f"trial {running.number}", known=False)
                    with running.lock:
                        outcome, told = self.train(running, board.line)
                    own += 1
                    board.done = len(self.trials.counted(*STATES)) - 1
                    board.kept = board.done + 1 - own
                    board.end(outcome.seconds, told)
                    self.tell()
                elif self.trials.counted(TrialState.RUNNING):
                    board.start("waiting for trials of other processes", known=False)
                    time.sleep(POLL)
                else:
                    break
        self.report()

    def train(self, running: Running, line: Callable[[str], None]) -> tuple[Outcome, str]:
        """Train a trial's network, or what is left of it; returns the outcome, and the result in words."""
        trial, study = running.trial, self.trials.study
        cell = self.cell(running)
        place = self.folder / "cells" / cell.key[:12]
        cost = self.meter(cell)
        trial.set_user_attr("cost", cost)
        started = time.monotonic()
        try:
            watch = self.watch(trial, cell, place / "metrics.csv", cost[self.cost], line)
            outcome = finished(cell, place) or run(cell, place, running.lock, watch)
        except Stopped:
            drop_weights(place)
            outcome = Outcome(time.monotonic() - started)
            trial.set_user_attr("seconds", outcome.seconds)
            study.tell(trial, state=TrialState.PRUNED)
            return outcome, f"pruned at {self.metric} {percent(trial.user_attrs['score'])}"
        if not outcome.error:
            drop_weights(place)
        trial.set_user_attr("seconds", outcome.seconds)
        record = {} if outcome.error else read_record(place)
        score = record["metrics"][self.metric] if record else None
        if score is None:
            trial.set_user_attr("error", outcome.error or f"its {self.metric} is undefined")
            study.tell(trial, state=TrialState.FAIL)
            return outcome, f"failed: {trial.user_attrs['error']}"
        trial.set_user_attr("score", score)
        front = self.config.objective == "front"
        study.tell(trial, [score, cost[self.cost]] if front else self.value(score, cost[self.cost]))
        return outcome, f"{self.metric} {percent(score)}, {billions(cost['macs'])}"

    def cell(self, running: Running) -> Cell:
        """A trial's training. Its network is saved first; by its full path, so that it is found from any folder."""
        architecture = self.space.architecture(running.trial.params)
        name = save(self.folder.resolve(), str(running.number), architecture)
        return cell_of(self.config, self.shared, name)

    def value(self, score: float, cost: float) -> float:
        """What is maximised."""
        return score * (cost / self.target) ** self.config.weight

    def watch(
        self, trial: optuna.Trial, cell: Cell, metrics: Path, cost: float, line: Callable[[str], None]
    ) -> Callable[[str], None]:
        """What follows a training's progress: raises Stopped once its scores so far are hopeless."""
        seen: set[int] = set()

        def follow(text: str) -> None:
            line(text)
            if not self.config.prune or not text.startswith("epoch") or text.startswith(f"epoch {cell.config.epochs}/"):
                return
            for epoch, score in scores_in(metrics, self.metric):
                if epoch not in seen:
                    seen.add(epoch)
                    trial.report(self.value(score, cost), epoch)
                    trial.set_user_attr("score", score)
            if trial.should_prune():
                raise Stopped

        return follow

    def check_hope(self) -> None:
        """Raise BadInput where all trials so far have failed, and there are enough of them."""
        failed = self.trials.counted(TrialState.FAIL)
        if len(failed) >= HOPELESS and not self.trials.counted(TrialState.COMPLETE, TrialState.PRUNED):
            raise BadInput(
                f"the first {len(failed)} trainings all failed, the last one so: {failed[-1].user_attrs.get('error')}\n"
                f"Their logs are in {self.folder / 'cells'}. Mend the cause, delete {self.folder}, and search again."
            )

    def found(self) -> list[Found]:
        """All trials."""
        own = {trial.number for trial in self.trials.own()}
        return [self._found(trial, trial.number in own) for trial in self.trials.study.get_trials(deepcopy=False)]

    def _found(self, trial: FrozenTrial, own: bool) -> Found:
        notes, cost = trial.user_attrs, trial.user_attrs.get("cost", {})
        complete = own and trial.state == TrialState.COMPLETE
        whole = trial.params.keys() == self.space.choices.keys()
        told = [f"repeats trial {notes[REPEATS]}"] if REPEATS in notes else []
        told += [f"continues trial {notes[REPLACES]}"] if REPLACES in notes else []
        return Found(
            number=trial.number,
            state=STATES.get(trial.state, trial.state.name.lower()) if own else "repeat" if told else "stopped",
            score=notes.get("score", math.nan),
            **{name: cost.get(name, math.nan) for name in ("macs", "params", "latency_ms")},
            objective=trial.values[0] if complete and self.config.objective == "weighted" else math.nan,
            seconds=notes.get("seconds", math.nan),
            is_base=trial.params == self.space.of_base,
            architecture=words(self.space.architecture(trial.params)) if whole else "",
            note="; ".join([*told, *([notes["error"]] if "error" in notes else [])]),
        )

    def tell(self) -> None:
        """Write `trials.csv` and `front.png`."""
        found = self.found()
        write_trials(found, self.folder / "trials.csv")
        title = f"{self.config.task}: variants of {self.config.base}"
        draw_front(found, self.cost, self.metric, title, self.folder / "front.png")

    def report(self) -> None:
        """Write the files, and print what was found and how to go on."""
        self.tell()
        best = best_of(found := self.found(), self.cost)
        if not best:
            raise BadInput(f"no trial has a score: what became of them is in {self.folder / 'trials.csv'}")
        out.print(table_of(found, self.cost, self.metric, self.folder))
        out.print(
            f"Scores are of one training each, on the {100 * HOLDOUT:.0f}% of the training images that are kept out of "
            "it, and the best of many is best by luck as well. To train the first of these anew, on all images, beside "
            "the base, and the base scaled to its cost, and score them on the validation split:\n"
            f"{shlex.join(self.rematch(best[0].number))}\n"
            f"{self.folder / 'trials.csv'} and {self.folder / 'front.png'}",
            markup=False,
        )

    def rematch(self, number: int) -> list[str]:
        """The command that compares a trial's network with the base, and with the base scaled to what it costs."""
        size = round(math.sqrt(math.prod(self.meter.size)))
        found = architecture_of(f"{self.folder.resolve()}#{number}")
        name = f"{RIVAL}-{number}"
        save(self.folder.resolve(), name, of_cost(self.space.base, counts(found, size)[1], size))

        def place(flag: str) -> tuple[str, str]:
            setting = flag.removeprefix("--")
            return "fixed" if setting.partition("=")[0] in FIXED else "", f"--{self.config.task}.{setting}"

        backbones = f"{self.folder}#{number}", f"{self.folder}#{name}", self.config.base
        fixed = ["--tasks", self.config.task, "--baseline", self.config.base, "--seeds", "3"]
        fixed += ["--output", f"{self.folder}-rematch"]
        return [
            "python",
            "-m",
            "experiments.compare",
            "--backbones",
            *backbones,
            *fixed,
            *group_arguments(self.shared, place)[""],
        ]


def cell_of(config: SearchConfig, shared: Sequence[str], backbone: str) -> Cell:
    """The training of a network in a search."""
    return Cell(config.task, (*shared, "--data.holdout", str(HOLDOUT), "--backbone", backbone))


def settings_of(config: SearchConfig, base: Cell) -> dict[str, dict[str, Any]]:
    """What must not change within a search, by the names of its flags."""
    fixed = "task", "base", "sampler", "objective", "cost", "weight", "prune"
    settings = {f"--{name}": getattr(config, name) for name in fixed}
    for name, value in flat(base.settings):
        own = hasattr(config, name) or name.startswith("data.")
        if name != "backbone":
            settings[f"--{name}" if own else f"--{config.task}.{name}"] = value
    return {"settings": json.loads(json.dumps(settings, default=str))}


def check_same(config: SearchConfig, base: Cell) -> Path | None:
    """The file that says how the search in a folder was begun; None where there is none yet.

    Raises UserError where it was begun with other settings.
    """
    file = Path(config.output) / SETTINGS
    if not file.exists():
        return None
    try:
        begun = {f"--{renamed(name[2:])}": value for name, value in json.loads(file.read_text())["settings"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is damaged ({error!r}): choose another --output") from error
    filled = type(base.config).upgrade({"backbone": "", "data": {}})  # no earlier version went by a trial's name
    begun = {f"--{config.task}.{name}": value for name, value in filled.items()} | begun
    for name, value in settings_of(config, base)["settings"].items():
        if value != begun.get(name):
            raise UserError(
                f"{name} {value}: the search in {config.output} was begun with {begun.get(name)}. Go on with that, or "
                "choose another --output."
            )
    return file


def drop_weights(run: Path) -> None:
    """Delete the checkpoints of a trial that has ended: a hundred MB each, of a network trained on part of the data."""
    shutil.rmtree(run / "checkpoints", ignore_errors=True)


def scores_in(metrics: Path, metric: str) -> Iterator[tuple[int, float]]:
    """(epoch, score) of the evaluations in a run's `metrics.csv`, epochs counted from 1."""
    if metrics.exists():
        with metrics.open(newline="") as file:
            for row in csv.DictReader(file):
                if row.get(metric):
                    yield int(row["epoch"]) + 1, float(row[metric])
