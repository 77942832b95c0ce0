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


def parted(arguments: Sequence[str], place: Callable[[str], tuple[str, str]]) -> dict[str, list[str]]:
    """Arguments in heaps. `place` gives a flag's heap and what it is called there; values follow their flag."""
    heaps: dict[str, list[str]] = {}
    into = heaps.setdefault("", [])
    for argument in arguments:
        if argument.startswith("--"):
            heap, argument = place(argument)
            into = heaps.setdefault(heap, [])
        into.append(argument)
    return heaps


def split(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The experiment's arguments, and those of each task: `--detection.epochs 12` -> detection: `--epochs 12`."""

    def place(flag: str) -> tuple[str, str]:
        for task in TASKS:
            for prefix, becomes in ((f"--{task}.", "--"), (f"--data.{task}.", "--data.")):
                if flag.startswith(prefix):
                    return task, becomes + flag.removeprefix(prefix)
        return "", flag

    of_tasks = parted(arguments, place)
    return of_tasks.pop(""), of_tasks


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
    heaps = parted(rest, lambda flag: ("data" if flag.startswith("--data.") else "", flag))
    of_data = heaps.get("data", [])
    command(name, kind, run, description)(heaps[""])
