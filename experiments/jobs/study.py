"""What studies of networks share, `experiments.search` and `experiments.scaling`: checks, arguments, command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from backbones.architecture import architecture_of
from backbones.errors import UserError
from engine.cli import command
from engine.config import Precision
from experiments.jobs.arguments import FIXED, SharedSettings, group_arguments, shared_arguments, split_by_task
from experiments.jobs.cell import Cell
from experiments.tasks import TASKS


class StudyConfig(Protocol):
    """The settings that all studies have."""

    task: str
    base: str
    output: str
    seed: int
    epochs: int | None
    batch_size: int | None
    image_size: Any
    precision: Precision
    device: str

    def check(self) -> None:
        """Raise UserError for a study that could not be made."""


def training_arguments(config: StudyConfig, asked: Sequence[str], study: str) -> tuple[str, ...]:
    """Arguments that all trainings share, but for the network and what keeps images out of them."""
    for argument in asked:
        name = argument.partition("=")[0]
        if name in (f"--{fixed}" for fixed in (*FIXED, "data.holdout")):
            raise UserError(f"{name} cannot be set for the trainings: the {study} sets it itself")
    shared = (*shared_arguments(SharedSettings.of(config), config.task, asked), "--seed", str(config.seed))
    if TASKS[config.task].sized_by_backbone and Cell(config.task, shared).config.image_size is None:
        shared += ("--image_size", str(architecture_of(config.base).image_size))
    return shared


def check_study(config: StudyConfig) -> None:
    """Raise UserError where task, base or folder of a study cannot be."""
    if config.task not in TASKS:
        raise UserError(f"--task {config.task}: there are {', '.join(TASKS)}")
    architecture_of(config.base)
    for mark in "#:":  # which have a meaning in a backbone's name
        if mark in str(Path(config.output).resolve()):
            raise UserError(f"--output {config.output} has a '{mark}' in its path: choose another folder")


def run_study(
    name: str, kind: type, work: Callable[[Any, list[str]], Any], description: str, argv: Sequence[str] | None
) -> None:
    """The command `name` with settings `kind`: `work` gets them and the arguments of all its trainings."""

    def run(config: StudyConfig) -> Any:
        config.check()
        if stray := of_tasks.keys() - {config.task}:
            raise UserError(f"there are settings for {', '.join(sorted(stray))}, but --task is {config.task}")
        return work(config, [*of_data, *of_tasks.get(config.task, [])])

    rest, of_tasks = split_by_task(sys.argv[1:] if argv is None else argv)
    heaps = group_arguments(rest, lambda flag: ("data" if flag.startswith("--data.") else "", flag))
    of_data = heaps.get("data", [])
    command(name, kind, run, description)(heaps[""])
