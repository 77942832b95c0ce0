"""Estimates how long trainings will take on this machine: one step of each network is timed, on blank images."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table

from backbones.base import blank_images
from engine.config import parse_size
from engine.console import err, out
from engine.execution import device_of
from engine.record import synchronize
from experiments.compare.tuning import finalists, trial_cell
from experiments.jobs.cell import Cell
from experiments.jobs.checkpoints import Keep, checkpoint_bytes, kept
from experiments.jobs.local import finished
from experiments.jobs.progress import duration
from experiments.tasks import task_spec

log = logging.getLogger(__name__)

START_UP = 8.0  # seconds for imports, for reading annotations, and for the pictures at the end
EVALUATIONS = 6  # approximate number in a run; see `--eval_every`


@dataclass(frozen=True)
class Expected:
    """What a training is expected to cost.

    Attributes:
        training: seconds of an epoch, without evaluation.
        evaluation: seconds of an evaluation.
        checkpoint: bytes of a checkpoint.
    """

    training: float
    evaluation: float
    checkpoint: int

    def seconds(self, epochs: int) -> float:
        """Seconds of a training: steps, evaluations (one forward pass per batch), and the start."""
        return START_UP + epochs * self.training + (min(EVALUATIONS, epochs) + 1) * self.evaluation


def print_estimate(
    cells: Sequence[Cell], folder: Path, tuned: Sequence[tuple[Cell, int]] = (), keep: Keep = "all"
) -> dict[str, float]:
    """List the cells with the time that each is expected to take, and the disk space. Finished cells take none.

    Args:
        cells: the trainings.
        folder: the comparison's folder.
        tuned: trainings whose settings are chosen first, and the number of trials for each.
        keep: which checkpoints stay.

    Returns for each task the time of one training of each backbone.
    """
    by_kind: dict[tuple, Expected] = {}
    checkpoints: list[int] = []  # bytes, of the cells to train
    by_backbone: dict[tuple[str, str], float] = {}
    table = Table("training", "epochs", "learning rate", "time")
    total, most = 0.0, False
    for cell, count in tuned:
        short = trial_cell(cell)
        measured = measure(short)  # in both rounds the images are the same, and only the epochs differ
        for number, epochs in ((count, short.config.epochs), (finalists(count), cell.config.epochs)):
            seconds = number * measured.seconds(epochs)
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
            if kind not in by_kind:
                by_kind[kind] = measure(cell)
            seconds = by_kind[kind].seconds(config.epochs)
            total += seconds
            expected = duration(seconds)
            by_backbone[cell.task, config.backbone] = seconds
            checkpoints.append(by_kind[kind].checkpoint)
        table.add_row(cell.name, str(config.epochs), f"{config.lr:g}", expected)
    out.print(table)
    most = most or any(cell.config.patience for cell in cells)  # pruning and early stopping may end them sooner
    about = "at most" if most else "about"
    count = len(cells) + sum(trials + finalists(trials) for _, trials in tuned)
    time = f"{about} {duration(total)} one after another on this machine"
    out.print(f"{count} trainings, {time} if reading images is not the limit")
    if checkpoints:
        print_disk(checkpoints, keep, folder)
    per_seed: dict[str, float] = {}
    for (task, _), seconds in by_backbone.items():
        per_seed[task] = per_seed.get(task, 0.0) + seconds
    return per_seed


def print_disk(checkpoints: Sequence[int], keep: Keep, folder: Path) -> None:
    """Print how much disk space the checkpoints of trainings take, and the free space.

    Args:
        checkpoints: bytes of a checkpoint of each training.
        keep: which of them stay. A training in progress has two.
        folder: the comparison's folder.
    """
    needed = len(kept(keep)) * sum(checkpoints) + (2 - len(kept(keep))) * max(checkpoints)
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    out.print(f"checkpoints need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    if needed > free:
        log.warning("the disk is too small for all checkpoints: --keep last halves them, --keep none deletes them")


def epoch_seconds(cell: Cell) -> float:
    """Return the expected seconds of an epoch of training, without evaluation."""
    return measure(cell).training


def measure(cell: Cell) -> Expected:
    """Time one step of a training, and an evaluation of one batch."""
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
    return Expected(
        steps * second_call_seconds(train_step, device),
        batches * second_call_seconds(evaluate_batch, device),
        checkpoint_bytes(model, config),
    )


def second_call_seconds(function: Callable[[], None], device: torch.device) -> float:
    """Call `function` twice and return the seconds of the second call. The first one sets up memory and kernels."""
    for _ in range(2):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
    return time.perf_counter() - start
