"""Build the commands of a task from its `CommandSpec`, as in `main = train_command(SPEC, __doc__)`."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.cli import command, demo_unless_root
from engine.export.config import ExportConfig
from engine.spec import CommandSpec


def train_command(spec: CommandSpec, description: str | None) -> Callable[..., None]:
    """The `main` of `python -m TASK.train`."""

    def main(argv: Sequence[str] | None = None) -> None:
        def run(config: Any) -> Any:
            with without_collection():
                from engine import commands

            return commands.train(spec, config, is_program=argv is None)

        name = f"{spec.program}.train"
        command(name, spec.train_config, run, description or "", spec.presets, demo_unless_root)(argv)

    return main


def eval_command(spec: CommandSpec, description: str | None) -> Callable[..., None]:
    """The `main` of `python -m TASK.eval`."""

    def load() -> Callable[..., Any]:
        from engine.evaluation import evaluate

        return evaluate

    return task_command(spec, "eval", spec.eval_config, load, description)


def predict_command(spec: CommandSpec, description: str | None) -> Callable[..., None]:
    """The `main` of `python -m TASK.predict`."""

    def load() -> Callable[..., Any]:
        from engine.predict import predict

        return predict

    return task_command(spec, "predict", spec.predict_config, load, description)


def export_command(spec: CommandSpec, description: str | None) -> Callable[..., None]:
    """The `main` of `python -m TASK.export`."""

    def load() -> Callable[..., Any]:
        from engine.exporting import export

        return export

    # It imports Triton, see `without_collection`.
    return task_command(spec, "export", ExportConfig, load, description, for_good=False)


def task_command(
    spec: CommandSpec,
    name: str,
    config: type,
    load: Callable[[], Callable[..., Any]],
    description: str | None,
    for_good: bool = True,
) -> Callable[..., None]:
    """The `main` of a command of a task.

    Args:
        spec: the task.
        name: of the command.
        config: class of its settings.
        load: imports what the command needs, and returns its function of spec and settings.
        description: for its help.
        for_good: see `without_collection`.
    """

    def main(argv: Sequence[str] | None = None) -> None:
        def run(settings: Any) -> Any:
            with without_collection(for_good=for_good and argv is None):
                function = load()
            return function(spec, settings)

        command(f"{spec.program}.{name}", config, run, description or "")(argv)

    return main


@contextmanager
def without_collection(for_good: bool = False) -> Iterator[None]:
    """For imports: no garbage collection during the block.

    Modules live as long as the process. Searching the 200,000 objects of torch's modules for garbage takes a quarter of
    a second while they are imported, and as long again as Python exits.

    Args:
        for_good: whether to leave out what exists at the end of the block from all later collections, also as Python
            exits. Not where the block imports Triton, as Lightning does: its bindings report what is not collected.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if for_good:
            gc.freeze()
        if was_enabled:
            gc.enable()
