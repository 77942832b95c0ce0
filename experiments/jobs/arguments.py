"""Arguments of an experiment, and those that its trainings share. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from backbones.errors import UserError
from engine.config import Precision, Protocol
from experiments.tasks import TASKS

FIXED = ("backbone", "seed", "output", "resume", "protocol")  # flags that the experiment sets


@dataclass
class SharedSettings:
    """Settings that all trainings of an experiment share; None takes the recipe's."""

    epochs: int | None = None
    batch_size: int | None = None
    image_size: int | str | None = None
    protocol: Protocol = "scratch"
    precision: Precision = "fp32"
    device: str = "auto"

    @classmethod
    def of(cls, config: Any) -> Self:
        """Those of an experiment's settings that have the same names; the others keep their defaults."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)})


def group_arguments(arguments: Sequence[str], place: Callable[[str], tuple[str, str]]) -> dict[str, list[str]]:
    """Arguments in heaps. `place` gives a flag's heap and what it is called there; values follow their flag."""
    heaps: dict[str, list[str]] = {}
    into = heaps.setdefault("", [])
    for argument in arguments:
        if argument.startswith("--"):
            heap, argument = place(argument)
            into = heaps.setdefault(heap, [])
        into.append(argument)
    return heaps


def split_by_task(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The experiment's arguments, and those of each task: `--detection.epochs 12` -> detection: `--epochs 12`."""

    def place(flag: str) -> tuple[str, str]:
        for task in TASKS:
            for prefix, becomes in ((f"--{task}.", "--"), (f"--data.{task}.", "--data.")):
                if flag.startswith(prefix):
                    return task, becomes + flag.removeprefix(prefix)
        return "", flag

    of_tasks = group_arguments(arguments, place)
    return of_tasks.pop(""), of_tasks


def shared_arguments(config: SharedSettings, task: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Arguments that all trainings of a task share: a preset, then what was asked for all tasks, then for this one."""
    for argument in asked:
        name = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and name in FIXED:
            raise UserError(f"--{task}.{name} cannot be set: the comparison sets {name} itself")
    for_all = {name: getattr(config, name) for name in ("epochs", "batch_size", "image_size")}
    preset: list[str] = []
    rest = list(asked)
    for i, argument in enumerate(asked):
        if argument.partition("=")[0] == "--config":
            width = 1 if "=" in argument else 2
            preset, rest = rest[i : i + width], rest[:i] + rest[i + width :]
    flags = {name: value for name, value in for_all.items() if value is not None}
    flags |= {"protocol": config.protocol, "precision": config.precision, "device": config.device}
    return (*preset, *(part for name, value in flags.items() for part in (f"--{name}", str(value))), *rest)
