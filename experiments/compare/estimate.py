"""Estimates how long trainings will take on this machine: one step of each network is timed, on blank images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table

from backbones.base import blank_images
from engine.commands import err, out
from engine.config import parse_size
from engine.record import synchronize
from engine.trainer import device_of
from experiments.compare.tuning import finalists, trial_cell
from experiments.jobs.cell import Cell
from experiments.jobs.local import finished
from experiments.jobs.progress import duration
from experiments.tasks import task_spec

START_UP = 8.0  # seconds for imports, for reading annotations, and for the pictures at the end
EVALUATIONS = 6  # approximate number in a run; see `--eval_every`


def print_estimate(cells: Sequence[Cell], folder: Path, tuned: Sequence[tuple[Cell, int]] = ()) -> dict[str, float]:
    """List the cells with the time that each is expected to take. Finished cells take none.

    Args:
        cells: the trainings.
        folder: the comparison's folder.
        tuned: trainings whose settings are chosen first, and the number of trials for each.

    Returns for each task the time of one training of each backbone.
    """
    seconds_by_kind: dict[tuple, float] = {}
    by_backbone: dict[tuple[str, str], float] = {}
    table = Table("training", "epochs", "learning rate", "time")
    total, most = 0.0, False
    for cell, count in tuned:
        short = trial_cell(cell)
        measured = _measure(short)  # in both rounds the images are the same, and only the epochs differ
        for number, epochs in ((count, short.config.epochs), (finalists(count), cell.config.epochs)):
            seconds = number * _seconds(epochs, *measured)
            total, most = total + seconds, True
            name = f"{number} trials for {cell.task}/{cell.config.backbone}"
            table.add_row(name, str(epochs), "chosen", f"at most {duration(seconds)}")
    for cell in track(cells, "timing one step of each network", console=err, transient=True):
        config = cell.config
        expected = "finished"
        before = finished(cell, cell.folder_in(folder / "cells"))
        if before is not None:
            by_backbone[cell.task, config.backbone] = before.seconds
        else:
            kind = (cell.task, config.backbone, config.epochs, config.data.holdout)  # cells of a kind take equally long
            if kind not in seconds_by_kind:
                seconds_by_kind[kind] = expected_seconds(cell)
            total += seconds_by_kind[kind]
            expected = duration(seconds_by_kind[kind])
            by_backbone[cell.task, config.backbone] = seconds_by_kind[kind]
        table.add_row(cell.name, str(config.epochs), f"{config.lr:g}", expected)
    out.print(table)
    most = most or any(cell.config.patience for cell in cells)  # pruning and early stopping may end them sooner
    about = "at most" if most else "about"
    count = len(cells) + sum(trials + finalists(trials) for _, trials in tuned)
    out.print(f"{count} trainings, {about} {duration(total)} on this machine if reading images is not the limit")
    per_seed: dict[str, float] = {}
    for (task, _), seconds in by_backbone.items():
        per_seed[task] = per_seed.get(task, 0.0) + seconds
    return per_seed


def expected_seconds(cell: Cell) -> float:
    """Return the expected seconds of a training: steps, evaluations (one forward pass per batch), and the start."""
    return _seconds(cell.config.epochs, *_measure(cell))


def epoch_seconds(cell: Cell) -> float:
    """Return the expected seconds of an epoch of training, without evaluation."""
    return _measure(cell)[0]


def _seconds(epochs: int, training: float, evaluation: float) -> float:
    """Seconds of a training, from those of an epoch and of an evaluation."""
    return START_UP + epochs * training + (min(EVALUATIONS, epochs) + 1) * evaluation


def _measure(cell: Cell) -> tuple[float, float]:
    """Seconds of an epoch of training, and of an evaluation."""
    config = cell.config
    spec = task_spec(cell.task)
    task, train, val = spec.load_task().prepare(config, spec.data_root(config))
    device = device_of(config.device)
    task.freeze_parts()
    model = task.model.to(device).to(memory_format=torch.channels_last)
    size = parse_size(config.image_size) if config.image_size else task.info.preprocessing["size"]
    height, width = size
    images = blank_images(model, height, width, config.batch_size, device=device)
    images = images.to(memory_format=torch.channels_last)

    def train_step() -> None:
        outputs = model(images)
        sum(o.sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()

    def evaluate_batch() -> None:
        with torch.inference_mode():
            model(images)

    steps, batches = len(train) / config.batch_size, len(val) / config.batch_size
    return steps * second_call_seconds(train_step, device), batches * second_call_seconds(evaluate_batch, device)


def second_call_seconds(function: Callable[[], None], device: torch.device) -> float:
    """Call `function` twice and return the seconds of the second call. The first one sets up memory and kernels."""
    for _ in range(2):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
    return time.perf_counter() - start
