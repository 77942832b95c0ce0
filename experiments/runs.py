"""Finished runs, for use in Python."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from backbones.errors import BadInput
from data.demo.writer import TASKS
from engine.checkpoint import RunInfo, read_run


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
    if info.task not in TASKS:  # the name leads to an import, so a file does not get to choose it freely
        raise BadInput(f"{path} holds a run of an unknown task, '{info.task}'")
    kind = getattr(import_module(f"{info.task}.task"), f"{info.task.capitalize()}Task")
    asked = import_module(f"{info.task}.config").PredictConfig()
    model = kind.restore(info, state, asked).model.eval()
    return Run(model, tuple(info.classes), info.preprocessing, info)
