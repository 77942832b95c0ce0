"""Splits the arguments of an experiment into its own and those of its trainings. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from backbones.errors import UserError
from engine.config import Precision, Protocol
from experiments.tasks import TASKS

FIXED = ("backbone", "seed", "output", "resume", "protocol")  # settings of a training that the experiment sets


@dataclass
class SharedSettings:
    """Settings that all trainings of an experiment share. None means the value of the task's recipe."""

    epochs: int | None = None
    batch_size: int | None = None
    image_size: int | str | None = None
    protocol: Protocol = "scratch"
    precision: Precision = "fp32"
    device: str = "auto"

    @classmethod
    def of(cls, config: Any) -> Self:
        """Take the settings of the same names from an experiment's settings. The others keep their defaults."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)})


def group_arguments(arguments: Sequence[str], group_of: Callable[[str], tuple[str, str]]) -> dict[str, list[str]]:
    """Sort arguments into groups. A flag's values go to the group of the flag.

    Args:
        arguments: of a command line.
        group_of: a flag -> the name of its group, and the flag's name within that group. Arguments before the first
            flag go to the group "".
    """
    grouped: dict[str, list[str]] = {}
    current = grouped.setdefault("", [])
    for argument in arguments:
        if argument.startswith("--"):
            name, argument = group_of(argument)
            current = grouped.setdefault(name, [])
        current.append(argument)
    return grouped


def split_by_task(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the experiment's own arguments, and those of each task.

    `--detection.epochs 12` becomes `--epochs 12` of detection, `--data.detection.root R` becomes `--data.root R`.
    """

    def task_of(flag: str) -> tuple[str, str]:
        for task in TASKS:
            for prefix, replacement in ((f"--{task}.", "--"), (f"--data.{task}.", "--data.")):
                if flag.startswith(prefix):
                    return task, replacement + flag.removeprefix(prefix)
        return "", flag

    by_task = group_arguments(arguments, task_of)
    return by_task.pop(""), by_task


def shared_arguments(config: SharedSettings, task: str, task_arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments that all trainings of a task share.

    Later ones override earlier ones. The order is: the preset, the settings for all tasks, the settings for this task.

    Raises UserError if `task_arguments` contain a flag that the experiment sets itself.
    """
    for argument in task_arguments:
        name = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and name in FIXED:
            raise UserError(f"--{task}.{name} cannot be set: the comparison sets {name} itself")
    for_all = {name: getattr(config, name) for name in ("epochs", "batch_size", "image_size")}
    preset: list[str] = []
    rest = list(task_arguments)
    for i, argument in enumerate(task_arguments):
        if argument.partition("=")[0] == "--config":
            width = 1 if "=" in argument else 2
            preset, rest = rest[i : i + width], rest[:i] + rest[i + width :]
    flags = {name: value for name, value in for_all.items() if value is not None}
    flags |= {"protocol": config.protocol, "precision": config.precision, "device": config.device}
    return (*preset, *(part for name, value in flags.items() for part in (f"--{name}", str(value))), *rest)


def files_by_backbone(entries: Sequence[str], backbones: Sequence[str] | None = None) -> dict[str, str]:
    """Entries BACKBONE=FILE of the setting `weights`: backbone -> file. A file's name may contain any character.

    Args:
        entries: of the command line.
        backbones: those that may have a file; None for any, whose name then ends at the first equals sign.

    Raises UserError for an entry without a file, for an unknown backbone, and for two files for one backbone.
    """
    files: dict[str, str] = {}
    for entry in entries:
        first, equals, _ = entry.partition("=")
        # The longest name: `a:f` and `a:f=b` can both be backbones.
        known = backbones if backbones is not None else [first] if first and equals else []
        names = sorted((name for name in known if entry.startswith(f"{name}=")), key=len)
        if not names:
            wrong = f"'{first}' is not among --backbones" if equals and first else "expected BACKBONE=FILE"
            raise UserError(f"--weights {entry}: {wrong}{'' if backbones is None else _listed(backbones, equals)}")
        file = entry.removeprefix(f"{names[-1]}=")
        if not file:
            raise UserError(f"--weights {entry}: the file is missing")
        if names[-1] in files:
            raise UserError(f"--weights: there are two files for {names[-1]}: {files[names[-1]]} and {file}")
        files[names[-1]] = os.path.expanduser(file)  # in BACKBONE=~/FILE, the shell does not replace the tilde
    return files


def _listed(backbones: Sequence[str], is_unknown: str) -> str:
    return f"{'' if is_unknown else '. The backbones are'} {' '.join(backbones)}"
