"""Finished runs, for use in Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from backbones.errors import BadInput
from engine.checkpoint import RunInfo, read_run
from experiments.tasks import TASKS


@dataclass(frozen=True)
class Run:
    """A trained model, and what it takes to use it.

    Attributes:
        model: in evaluation mode, with the weights that the run was scored with.
        classes: names by index.
        preprocessing: `mean` and `std` by channel, of RGB in 0..1, `size` as (height, width), and what else the task's
            transform goes by.
        info: all that the checkpoint says of the run.
    """

    model: nn.Module
    classes: tuple[str, ...]
    preprocessing: dict[str, Any]
    info: RunInfo


def load_run(path: str | Path) -> Run:
    """The run at `path`, a run folder or a checkpoint file. Raises BadInput where there is none that can be read."""
    info, state = read_run(path)
    if info.task not in TASKS:
        raise BadInput(f"{path} holds a run of an unknown task, '{info.task}'")
    spec = TASKS[info.task]
    model = spec.load_task().restore(info, state, spec.predict_config()).model.eval()
    return Run(model, tuple(info.classes), info.preprocessing, info)
