"""The command line of experiments: settings of their own, and those that go on to the trainings. Torch-free."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from backbones.architecture import architecture_of
from backbones.errors import UserError
from data.demo import TASKS
from experiments.engine.cli import command


class StudyConfig(Protocol):
    """What the settings of a study of networks have, `experiments.search` and `experiments.scaling`."""

    task: str
    base: str
    output: str

    def check(self) -> None:
        """Raise UserError for a study that could not be made."""


def split(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The experiment's arguments, and those of each task: `--detection.epochs 12` -> detection: `--epochs 12`."""
    own: list[str] = []
    of_tasks: dict[str, list[str]] = {}
    into = own
    for argument in arguments:
        if argument.startswith("--"):
            into = own
            for task in TASKS:
                for prefix, becomes in ((f"--{task}.", "--"), (f"--data.{task}.", "--data.")):
                    if argument.startswith(prefix):
                        into = of_tasks.setdefault(task, [])
                        argument = becomes + argument.removeprefix(prefix)
        into.append(argument)
    return own, of_tasks


def split_data(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of a study, and those of its data: `--data.root R`."""
    own: list[str] = []
    of_data: list[str] = []
    into = own
    for argument in arguments:
        if argument.startswith("--"):
            into = of_data if argument.startswith("--data.") else own
        into.append(argument)
    return own, of_data


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

    rest, of_tasks = split(sys.argv[1:] if argv is None else argv)
    own, of_data = split_data(rest)
    command(name, kind, run, description)(own)
