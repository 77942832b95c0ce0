"""How long trainings will take on this machine: a step of each network is timed, on blank images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table

from engine.commands import err, out
from engine.config import parse_size
from engine.record import synchronize
from engine.trainer import device_of
from experiments.jobs.cell import Cell
from experiments.jobs.local import finished
from experiments.jobs.progress import clock
from experiments.tasks import task_spec

START_UP = 8.0  # seconds for imports, reading annotations, and the pictures at the end
EVALUATIONS = 6  # of a run, about; see `--eval_every`


def print_estimate(cells: Sequence[Cell], folder: Path) -> None:
    """List the cells with the seconds that each is expected to take; finished ones take none."""
    seconds: dict[tuple, float] = {}
    table = Table("training", "epochs", "learning rate", "time")
    total = 0.0
    for cell in track(cells, "timing a step of each network", console=err, transient=True):
        done = finished(cell, folder / "cells" / cell.name) is not None
        config = cell.config
        if not done:
            alike = (cell.task, config.backbone, config.epochs, config.data.holdout)
            if alike not in seconds:
                seconds[alike] = expected_seconds(cell)
            total += seconds[alike]
        table.add_row(cell.name, str(config.epochs), f"{config.lr:g}", "finished" if done else clock(seconds[alike]))
    out.print(table)
    out.print(f"{len(cells)} trainings, about {clock(total)} on this machine, if reading images keeps up")


def expected_seconds(cell: Cell) -> float:
    """Seconds that a cell takes: its steps, its evaluations at the cost of a forward pass, and the start."""
    config = cell.config
    spec = task_spec(cell.task)
    task, train, val = spec.load_task().prepare(config, spec.data_root(config))
    device = device_of(config.device)
    task.freeze_parts()
    model = task.model.to(device).to(memory_format=torch.channels_last)
    size = parse_size(config.image_size) if config.image_size else task.info.preprocessing["size"]
    images = torch.zeros(config.batch_size, 3, *size, device=device).to(memory_format=torch.channels_last)

    def step() -> None:
        outputs = model(images)
        sum(o.sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()

    def score() -> None:
        with torch.inference_mode():
            model(images)

    steps, batches = len(train) / config.batch_size, len(val) / config.batch_size
    evaluations = min(EVALUATIONS, config.epochs) + 1
    return START_UP + config.epochs * steps * timed(step, device) + evaluations * batches * timed(score, device)


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of the second call of `work`."""
    for _ in range(2):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
    return time.perf_counter() - start
