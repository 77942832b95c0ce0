"""Code that `experiments.search` and `experiments.scaling` share: command, checks and folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from backbones.architecture import Architecture, architecture_of, save
from backbones.errors import UserError
from engine.cli import command
from engine.config import Precision
from experiments.jobs.arguments import FIXED, SharedSettings, group_arguments, shared_arguments, split_by_task
from experiments.jobs.cell import Cell
from experiments.jobs.runners import RunnerName, check_slots
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
    runner: RunnerName
    slots: int

    def check(self) -> None:
        """Raise UserError for settings that no study could use."""


@dataclass(frozen=True)
class StudyFolder:
    """The folder in which a study stores its networks and trainings."""

    path: Path

    def save_network(self, name: str, network: Architecture) -> str:
        """Store a network. Returns its backbone name, with the folder's full path so that it works from any folder.

        Raises BadInput if the folder holds another network of that name.
        """
        return save(self.path.resolve(), name, network)

    def run_folder(self, cell: Cell) -> Path:
        """The run folder of a training."""
        return cell.folder_in(self.path / "cells", lambda key: key[:12])


def training_arguments(config: StudyConfig, train_arguments: Sequence[str], study: str) -> tuple[str, ...]:
    """Return the arguments that all trainings of a study share: all but network and held-out images.

    Args:
        config: settings of the study.
        train_arguments: arguments of the task's train command, from the command line.
        study: its name for messages, such as "search".

    Raises UserError if `train_arguments` contain a flag that the study sets itself.
    """
    for argument in train_arguments:
        name = argument.partition("=")[0]
        if name in (f"--{fixed}" for fixed in (*FIXED, "data.holdout")):
            raise UserError(f"{name} cannot be set for the trainings: the {study} sets it itself")
    shared = (*shared_arguments(SharedSettings.of(config), config.task, train_arguments), "--seed", str(config.seed))
    if TASKS[config.task].sized_by_backbone and Cell(config.task, shared).config.image_size is None:
        shared += ("--image_size", str(architecture_of(config.base).image_size))
    return shared


def check_study(config: StudyConfig) -> None:
    """Raise UserError for an unknown task or base, no slots, or a folder that a backbone's name cannot contain."""
    check_slots(config.slots)
    if config.task not in TASKS:
        raise UserError(f"--task {config.task}: there are {', '.join(TASKS)}")
    architecture_of(config.base)
    for mark in "#:":  # these have a meaning in a backbone's name
        if mark in str(Path(config.output).resolve()):
            raise UserError(f"--output {config.output} has a '{mark}' in its path: choose another folder")


def run_study(
    name: str, config_class: type, run: Callable[[Any, list[str]], Any], description: str, argv: Sequence[str] | None
) -> None:
    """Run a study's command.

    Args:
        name: of the command, such as "experiments.search".
        config_class: dataclass of its settings, see StudyConfig.
        run: called with the settings and the arguments of the task's train command.
        description: for `--help`.
        argv: the command line; None for that of this process.
    """

    def check_and_run(config: StudyConfig) -> Any:
        config.check()
        if other_tasks := by_task.keys() - {config.task}:
            raise UserError(f"there are settings for {', '.join(sorted(other_tasks))}, but --task is {config.task}")
        return run(config, [*grouped.get("data", []), *by_task.get(config.task, [])])

    rest, by_task = split_by_task(sys.argv[1:] if argv is None else argv)
    grouped = group_arguments(rest, lambda flag: ("data" if flag.startswith("--data.") else "", flag))
    command(name, config_class, check_and_run, description)(grouped[""])
