"""Ends trainings whose scores are too low, by a study of Optuna that compares them with earlier trainings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import optuna

from experiments.jobs.cell import Cell
from experiments.jobs.local import Pruned
from experiments.records import scores_by_epoch

EPOCH = re.compile(r"epoch (\d+)/")  # the line that a training prints after each epoch
SCORE = "score"  # user attribute of a trial: its last score, a fraction


def pruning_callback(
    trial: optuna.Trial,
    cell: Cell,
    run_folder: Path,
    metric: str,
    value_of: Callable[[float], float],
    show_line: Callable[[str], None],
    prune: bool = True,
) -> Callable[[str], None]:
    """A callback for the lines that a training prints. It raises Pruned if the study's pruner decides so.

    Args:
        trial: the trial that the training belongs to. Its user attribute `SCORE` holds the last score.
        cell: the training.
        run_folder: its run folder.
        metric: the metric to compare, whose score after each evaluation is reported to the study. The decision after an
            evaluation depends on the scores up to it only: a training that was interrupted, or whose lines arrive late,
            ends after the same epoch.
        value_of: the value that the study maximises, from a score.
        show_line: called with each line.
        prune: whether trainings are ended at all. The score of the last epoch is not reported: the training is over.
    """
    reported: set[int] = set()  # epochs

    def on_line(text: str) -> None:
        show_line(text)
        line = EPOCH.match(text)
        if not prune or line is None or int(line[1]) == cell.config.epochs:
            return
        for epoch, score in scores_by_epoch(run_folder, metric) if (run_folder / "metrics.csv").exists() else []:
            if epoch in reported or epoch > int(line[1]):
                continue
            reported.add(epoch)
            trial.report(value_of(score), epoch)
            trial.set_user_attr(SCORE, score)
            if trial.should_prune():
                raise Pruned

    return on_line
