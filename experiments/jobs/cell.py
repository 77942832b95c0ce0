"""A cell is one training of an experiment, defined by its arguments.

Its key is a hash of what decides its result: task, recipe version, settings, and the content of the data. Where the
data are, and on which device the network is trained, are no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from backbones.architecture import architecture_of
from backbones.errors import BadInput
from backbones.names import is_study_network
from backbones.weight_facts import sha256
from data.demo import VERSION
from engine.cli import demo_unless_root, parse
from engine.config import TrainConfig
from engine.schema import hashed_settings
from experiments.tasks import task_spec

PLACES = ("root", "train", "val")  # settings that say where the data are
WHERE = ("device", "devices", "num_nodes")  # settings that say where to train
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
        """The settings that affect the result.

        Output folder, resumption, loggers, gradient checkpointing and loader processes do not.
        """
        settings = asdict(self.config)
        for name in ("output", "resume", "logger", "checkpointing"):
            del settings[name]
        del settings["data"]["workers"]
        root = settings["data"]["root"]
        settings["data"]["root"] = f"demo scenes {VERSION}" if root is None else str(Path(root).resolve())
        return settings

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) of task, recipe version, settings and data.

        A network of a study enters with its architecture instead of its name, and a weight file with its content.
        """
        settings, content = self._without_places(self._hashed())
        if isinstance(weights := self.config.pretrained, str) and Path(weights).is_file():
            settings["pretrained"] = _weights_digest(Path(weights).resolve())
        return digest([self.task, task_spec(self.task).recipe, settings, content])

    @cached_property
    def conditions(self) -> str:
        """SHA-256 (hex) of task, recipe version, settings and data, without network, weights and seed.

        Trainings with the same value are comparable.
        """
        # One name for all, since `hashed_settings` leaves out other settings for some backbones.
        hashed = hashed_settings(self.settings | {"backbone": "resnet18"}, type(self.config))
        settings, content = self._without_places(hashed)
        for name in ("backbone", "pretrained", "seed"):
            settings.pop(name)
        return digest([self.task, task_spec(self.task).recipe, settings, content])

    def _without_places(self, settings: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Settings without those that say where data and devices are, and the identity of the data."""
        data = {name: value for name, value in settings["data"].items() if name not in PLACES}
        rest = {name: value for name, value in settings.items() if name not in WHERE}
        content = data_identity(self.task, json.dumps(asdict(self.config.data), sort_keys=True, default=str))
        return rest | {"data": data}, content

    @cached_property
    def earlier_key(self) -> str | None:
        """The key that earlier versions of this package gave this training; None if its recipe has changed since.

        It contains the device and the absolute path of the data. Settings with the same meaning as in an earlier
        version have the key of that version: see `hashed_settings`.
        """
        return digest([self.task, self._hashed()]) if task_spec(self.task).recipe == 1 else None

    def _hashed(self) -> dict[str, Any]:
        name = self.config.backbone
        settings = hashed_settings(self.settings, type(self.config))
        return settings | ({"backbone": asdict(architecture_of(name))} if is_study_network(name) else {})

    def folder_in(self, parent: Path, name_of: Callable[[str], str] | None = None) -> Path:
        """The run folder of this training in an experiment's folder; an earlier version's, if it is there.

        Args:
            parent: folder of the trainings.
            name_of: key -> name of the run folder; by default that of comparisons, see `name`.
        """
        name_of = name_of or self._name
        if self.earlier_key and (earlier := parent / name_of(self.earlier_key)).is_dir():
            return earlier
        return parent / name_of(self.key)

    @property
    def neck(self) -> str | None:
        """Name of the neck, or of segmentation's decoder. None if the network keeps its own head."""
        return self.settings.get("decoder", self.settings.get("neck"))

    @property
    def name(self) -> str:
        """`TASK/BACKBONE-sSEED-KEY`: the run folder's path within the experiment's folder."""
        return self._name(self.key)

    def _name(self, key: str) -> str:
        backbone = "".join(c if c.isalnum() or c in "._" else "-" for c in self.config.backbone)
        return f"{self.task}/{backbone}-s{self.config.seed}-{key[:8]}"


@cache
def data_identity(task: str, data: str) -> str:
    """What the key has of the data: fingerprints of training and validation images.

    Data that cannot be read are identified by their place: the training then fails with the reason.

    Args:
        task: name of the task.
        data: settings of the data, as JSON.
    """
    spec = task_spec(task)
    values = json.loads(data)
    if values["root"] is None and values["train"] is None:
        return f"demo scenes {VERSION}"
    config = spec.train_config.of({"backbone": "resnet18", "data": values, "seed": 0}).with_files()
    try:
        train, val = spec.load_task().read(config, spec.root_of(values["root"], values["train"]))
    except BadInput:
        return f"unreadable {[values[name] for name in PLACES]}"
    return f"{train.fingerprint} {val.fingerprint}"


_weights_digest = cache(sha256)  # many trainings start from one file


def digest(content: Any) -> str:
    """SHA-256 (hex) of content as JSON. What JSON cannot represent enters as text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def with_settings(cell: Cell, **settings: float) -> Cell:
    """Return the cell with some settings replaced."""
    return replace(cell, arguments=(*cell.arguments, *(p for k, v in settings.items() for p in (f"--{k}", f"{v:g}"))))
