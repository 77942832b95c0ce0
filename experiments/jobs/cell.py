"""A cell is one training of an experiment, defined by its arguments. Its key is a hash of its resolved settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from backbones.architecture import architecture_of
from backbones.names import is_study_network
from data.demo import VERSION
from engine.cli import demo_unless_root, parse
from engine.config import TrainConfig
from engine.schema import hashed_settings
from experiments.tasks import task_spec

HOLDOUT = 0.2  # share of the training images that are held out to choose settings and networks on


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        task: name of the task.
        arguments: arguments of the task's train command, without `--output`.
    """

    task: str
    arguments: tuple[str, ...]

    @cached_property
    def config(self) -> TrainConfig:
        """The settings that the arguments resolve to, presets and named files included.

        Raises UserError for what `train` refuses.
        """
        spec = task_spec(self.task)
        config = parse(
            f"{self.task}.train", spec.train_config, list(self.arguments), "", spec.presets, demo_unless_root
        ).with_files()
        config.check()
        return config

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that affect the result: all but output folder, resumption, loggers and loader processes."""
        settings = asdict(self.config)
        for name in ("output", "resume", "logger"):
            del settings[name]
        del settings["data"]["workers"]
        root = settings["data"]["root"]
        settings["data"]["root"] = f"demo scenes {VERSION}" if root is None else str(Path(root).resolve())
        return settings

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) of task and settings. A network of a study enters with its architecture instead of its name.

        Settings with the same meaning as in an earlier version have the key of that version: see `hashed_settings`.
        """
        name = self.config.backbone
        settings = hashed_settings(self.settings, type(self.config))
        settings |= {"backbone": asdict(architecture_of(name))} if is_study_network(name) else {}
        return hashlib.sha256(json.dumps([self.task, settings], sort_keys=True, default=str).encode()).hexdigest()

    @property
    def neck(self) -> str | None:
        """Name of the neck, or of segmentation's decoder. None if the network keeps its own head."""
        return self.settings.get("decoder", self.settings.get("neck"))

    @property
    def name(self) -> str:
        """`TASK/BACKBONE-sSEED-KEY`: the run folder's path within the experiment's folder."""
        backbone = "".join(c if c.isalnum() or c in "._" else "-" for c in self.config.backbone)
        return f"{self.task}/{backbone}-s{self.config.seed}-{self.key[:8]}"


def with_settings(cell: Cell, **settings: float) -> Cell:
    """Return the cell with some settings replaced."""
    return replace(cell, arguments=(*cell.arguments, *(p for k, v in settings.items() for p in (f"--{k}", f"{v:g}"))))
