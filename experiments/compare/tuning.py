"""Chooses the settings of each backbone's recipe, with the same small number of trainings for every backbone.

There are two rounds, as in successive halving (arXiv:1502.07943). All trials are scored on images that are held out of
training. In the first round they have a third of the epochs. The first trial has the recipe's own settings. The next
ones cover the ranges of all settings evenly (a Latin hypercube), with the same values for all backbones. Optuna's
tree-structured Parzen estimator (arXiv:2304.11127) proposes the others from the scores before, and its median rule
(arXiv:1907.10902) ends trainings whose scores are too low. In the second round the recipe and the best third of the
others are trained with all epochs, because the best learning rate of a short training is higher than that of a long
one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from scipy.stats.qmc import LatinHypercube

from backbones.errors import BadInput
from engine.record import write_json
from experiments.jobs.cell import HOLDOUT, Cell, with_settings
from experiments.jobs.checkpoints import trim
from experiments.jobs.local import Outcome, Pruned, finished
from experiments.jobs.progress import ProgressDisplay
from experiments.jobs.pruning import SCORE, pruning_callback
from experiments.jobs.runner import Runner
from experiments.records import scores_by_epoch

SHORTER = 3  # trials have a third of the epochs
UNPRUNED = 3  # number of trials that the median needs before a trial can be pruned
COVERING = 3  # smallest number of trials that cover the ranges; with more than seven trials it is half of them
PRUNED = "pruned.json"  # result of a trial that was pruned, in its run folder
# Settings are sampled on a logarithmic scale.
SPAN = 10  # learning rates from a tenth to ten times the recipe's
BACKBONE_LR = (0.03, 1.0)
WEIGHT_DECAY = (1e-5, 0.1)
WARMUP = (0.01, 0.3)  # share of the epochs


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        settings: the settings that tuning can change, for a training of all epochs.
        score: on the held-out images, a fraction: the last one if the trial was pruned, None if it has none.
        state: complete, pruned or failed.
        seconds: duration.
        error: reason of the failure.
    """

    settings: dict[str, float]
    score: float | None
    state: str
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Tuned:
    """The trials of a backbone on a task.

    Attributes:
        cell: the training that settings are chosen for, with the recipe's.
        budget: its number of epochs for the baseline, if there are several budgets.
        epochs: number of epochs of each trial of the first round.
        metric: name of the metric that the trials are compared on.
        trials: the first round. The first one has the recipe's settings.
        finals: the second round: number of the trial -> the same settings with all epochs.
    """

    cell: Cell
    budget: int | None
    epochs: int
    metric: str
    trials: tuple[Trial, ...]
    finals: dict[int, Trial]

    @property
    def chosen(self) -> int:
        """Number of the trial with the highest score in the second round; the recipe's, 0, if none is higher."""
        return max(self.finals, key=lambda number: (ranked(self.finals[number]), number == 0))

    def applied(self, cell: Cell) -> Cell:
        """A training of the same backbone, task and budget with the chosen settings."""
        return with_settings(cell, **self.trials[self.chosen].settings) if self.chosen else cell

    def as_dict(self) -> dict[str, Any]:
        """The entry in `comparison.json`."""
        return {
            "task": self.cell.task,
            "backbone": self.cell.config.backbone,
            "budget": self.budget,
            "metric": self.metric,
            "epochs": self.epochs,
            "full_epochs": self.cell.config.epochs,
            "seconds": sum(trial.seconds for trial in (*self.trials, *self.finals.values())),
            "chosen": self.chosen,
            "trials": [vars(trial) for trial in self.trials],
            "finals": {str(number): vars(trial) for number, trial in self.finals.items()},
        }


class Tuner:
    """Runs trials in a comparison's folder. Finished and pruned trials are not trained again.

    Args:
        folder: folder of the trainings.
        runner: trains.
        count: number of trials of each backbone on each task.
        metrics: the metric of each task.
        score: returns the score of a training that was finished in a folder, None if it is undefined.
        display: shows the progress.
    """

    def __init__(
        self,
        folder: Path,
        runner: Runner,
        count: int,
        metrics: Mapping[str, str],
        score: Callable[[Cell, Path], float | None],
        display: ProgressDisplay,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.runner, self.count = folder, runner, count
        self.metrics, self.score, self.display = metrics, score, display

    def tune(self, cell: Cell, budget: int | None = None) -> Tuned:
        """Run the trials for the settings of a training.

        The sampler depends on the number of the trial and on the scores before only: a comparison that is run again
        finds the same settings.
        """
        short = trial_cell(cell)
        ranges = search_ranges(cell)
        study = optuna.create_study(direction="maximize", pruner=MedianPruner(UNPRUNED, short.config.epochs // SHORTER))
        covering = max(COVERING, self.count // 2)
        study.enqueue_trial({name: min(max(own, low), high) for name, (own, low, high) in ranges.items()})
        for point in LatinHypercube(len(ranges), seed=0).random(covering):
            scaled = zip(ranges.items(), point.tolist(), strict=True)
            study.enqueue_trial({name: low * (high / low) ** share for (name, (_, low, high)), share in scaled})
        values, trials = [], []
        name = f"{cell.task}/{cell.config.backbone}, trial"
        for number in range(self.count):
            study.sampler = TPESampler(seed=number, n_startup_trials=covering + 1)
            trial = study.ask()
            sampled = {name: trial.suggest_float(name, low, high, log=True) for name, (_, low, high) in ranges.items()}
            values.append(rounded(sampled) if number else recipe_values(ranges))
            shown, trained = f"{name} {number + 1} of {self.count}", trial_cell(cell, values[-1])
            trials.append(self._train(shown, trained, full_settings(cell, values[-1]), study, trial))
        others = sorted(range(1, self.count), key=lambda number: -ranked(trials[number]))
        finals = {}
        for number in (0, *others[: finalists(self.count) - 1]):
            settings = full_settings(cell, values[number])
            final = with_settings(cell, **{"data.holdout": HOLDOUT}, **settings)
            finals[number] = self._train(f"{name} {number + 1} with all epochs", final, settings)
        return Tuned(cell, budget, short.config.epochs, self.metrics[cell.task], tuple(trials), finals)

    def _train(
        self,
        name: str,
        cell: Cell,
        settings: dict[str, float],
        study: optuna.Study | None = None,
        trial: optuna.Trial | None = None,
    ) -> Trial:
        """Train a trial, or read its result, and report it to the study of the first round. `name`: to display."""
        run_folder, metric = cell.folder_in(self.folder), self.metrics[cell.task]
        result = self._stored(cell, run_folder, settings)
        self.display.start(name, is_finished=result is not None)
        if result is None:
            result = self._run(trial, cell, run_folder, settings)
        elif trial is not None:
            for epoch, score in scores_by_epoch(run_folder, metric) if (run_folder / "metrics.csv").exists() else []:
                if epoch < cell.config.epochs:
                    trial.report(score, epoch)
        if study is not None and trial is not None:
            state = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}.get(result.state)
            study.tell(trial, None if state else result.score, state)
        scored = "" if result.score is None else f"{metric} {100 * result.score:.1f}"
        ended = result.error or scored + (", pruned" if result.state == "pruned" else "")
        self.display.end(result.seconds, ended)
        return result

    def _stored(self, cell: Cell, run_folder: Path, settings: dict[str, float]) -> Trial | None:
        """The result of a trial that ended earlier; None if there is none. Raises BadInput if it is damaged."""
        if (outcome := finished(cell, run_folder)) is not None:
            return self._complete(cell, settings, outcome)
        file = run_folder / PRUNED
        try:
            content = json.loads(file.read_text())
            is_same = content["key"] == cell.key
            return Trial(settings, content["score"], "pruned", content["seconds"]) if is_same else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{file} is damaged: delete {run_folder} to train the trial again") from error

    def _run(self, trial: optuna.Trial | None, cell: Cell, run_folder: Path, settings: dict[str, float]) -> Trial:
        metric = self.metrics[cell.task]
        callback: Callable[[str], None] = self.display.show_line
        if trial is not None:
            callback = pruning_callback(trial, cell, run_folder, metric, lambda score: score, callback)
        started = time.monotonic()
        try:
            outcome = self.runner.train(cell, run_folder, callback)
        except Pruned:
            assert trial is not None
            seconds, score = time.monotonic() - started, trial.user_attrs[SCORE]
            write_json(run_folder / PRUNED, {"key": cell.key, "score": score, "seconds": seconds})
            trim(run_folder)
            return Trial(settings, score, "pruned", seconds)
        if outcome.error:
            return Trial(settings, None, "failed", outcome.seconds, outcome.error)
        trim(run_folder)
        return self._complete(cell, settings, outcome)

    def _complete(self, cell: Cell, settings: dict[str, float], outcome: Outcome) -> Trial:
        score = self.score(cell, self.folder)
        if score is None:
            return Trial(settings, None, "failed", outcome.seconds, "its score is undefined")
        return Trial(settings, score, "complete", outcome.seconds)


def finalists(count: int) -> int:
    """Number of trials of the second round, the recipe's included, for this number of trials in the first."""
    return 1 + math.ceil((count - 1) / SHORTER)


def ranked(trial: Trial) -> float:
    """The score by which trials are compared: minus infinity for those without one, or that were pruned."""
    return -math.inf if trial.state != "complete" or trial.score is None else trial.score


def search_ranges(cell: Cell) -> dict[str, tuple[float, float, float]]:
    """The settings that tuning can change: the recipe's value, and the lowest and highest value that are tried.

    `warmup` is a share of the epochs, so that it has the same meaning in trainings of any length. The factor on the
    backbone's learning rate is only searched where a pretrained backbone is trained.
    """
    config = cell.config
    ranges = {"lr": (config.lr, config.lr / SPAN, config.lr * SPAN)}
    if config.protocol not in ("scratch", "frozen", "linear"):
        ranges["backbone_lr"] = (config.backbone_lr, *BACKBONE_LR)
    return ranges | {
        "weight_decay": (config.weight_decay, *WEIGHT_DECAY),
        "warmup": (config.warmup_epochs / config.epochs, *WARMUP),
    }


def recipe_values(ranges: Mapping[str, tuple[float, float, float]]) -> dict[str, float]:
    """The recipe's own values, from `search_ranges`."""
    return {name: own for name, (own, _, _) in ranges.items()}


def trial_cell(cell: Cell, values: dict[str, float] | None = None) -> Cell:
    """The short training of a trial with these values of `search_ranges`; by default the recipe's."""
    epochs = math.ceil(cell.config.epochs / SHORTER)
    values = values or recipe_values(search_ranges(cell))
    return with_settings(cell, **{"data.holdout": HOLDOUT}, epochs=epochs, **_settings(values, epochs))


def full_settings(cell: Cell, values: dict[str, float]) -> dict[str, float]:
    """The settings of a training of all epochs for these values of `search_ranges`."""
    return _settings(values, cell.config.epochs)


def rounded(values: dict[str, float]) -> dict[str, float]:
    """The values with two significant digits, so that a person can type them."""
    return {name: float(f"{value:.2g}") for name, value in values.items()}


def _settings(values: dict[str, float], epochs: int) -> dict[str, float]:
    """Settings of `train`. The number of epochs of warm-up is rounded to three digits."""
    settings = {name: value for name, value in values.items() if name != "warmup"}
    return settings | {"warmup_epochs": float(f"{values['warmup'] * epochs:.3g}")}
