"""Build the commands of a task from its `TaskSpec`, as in `main = train_command(SPEC, __doc__)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.cli import command, demo_unless_root
from engine.export.config import ExportConfig
from engine.spec import TaskSpec


def train_command(spec: TaskSpec, description: str | None) -> Callable[..., None]:
    """The `main` of `python -m TASK.train`."""

    def main(argv: Sequence[str] | None = None) -> None:
        def run(config: Any) -> Any:
            from engine import commands

            return commands.train(spec, config, is_program=argv is None)

        name = f"{spec.name}.train"
        command(name, spec.train_config, run, description or "", spec.presets, demo_unless_root)(argv)

    return main


def eval_command(spec: TaskSpec, description: str | None) -> Callable[..., None]:
    """The `main` of `python -m TASK.eval`."""

    def run(config: Any) -> Any:
        from engine import commands

        return commands.evaluate(spec, config)

    return command(f"{spec.name}.eval", spec.eval_config, run, description or "")


def predict_command(spec: TaskSpec, description: str | None) -> Callable[..., None]:
    """The `main` of `python -m TASK.predict`."""

    def run(config: Any) -> Any:
        from engine.predict import predict

        return predict(spec, config)

    return command(f"{spec.name}.predict", spec.predict_config, run, description or "")


def export_command(spec: TaskSpec, description: str | None) -> Callable[..., None]:
    """The `main` of `python -m TASK.export`."""

    def run(config: Any) -> Any:
        from engine.exporting import export

        return export(spec, config)

    return command(f"{spec.name}.export", ExportConfig, run, description or "")
