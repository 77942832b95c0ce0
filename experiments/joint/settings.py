"""The settings of a joint training from its command line: its own, and those of each head. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from backbones.errors import UserError
from engine.cli import demo_unless_root, parse
from engine.config import TrainConfig
from experiments.jobs.arguments import group_arguments
from experiments.joint.config import JointTrainConfig
from experiments.tasks import TASKS

SHARED = {field.name for field in fields(TrainConfig)}
# Settings that each head has for itself; all others belong to the whole training.
OF_HEADS = {"lr", "backbone_lr", "batch_size", "image_size", "class_weights", "data"}
# Settings of the whole training that a head's command line does not have, or that have no meaning for it.
NOT_FORWARDED = {"output", "resume", "logger", "monitor", "patience", "accumulate"}


def split_by_head(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The training's own arguments, and those of each head by name.

    `--cells.lr 0.001` becomes `--lr 0.001` of the head cells, `--data.cells.root R` becomes `--data.root R`.
    """
    names = _names_in(arguments)

    def head_of(flag: str) -> tuple[str, str]:
        for name in names:
            for prefix, replacement in ((f"--{name}.", "--"), (f"--data.{name}.", "--data.")):
                if flag.startswith(prefix):
                    return name, replacement + flag.removeprefix(prefix)
        return "", flag

    by_head = group_arguments(arguments, head_of)
    return by_head.pop(""), by_head


def _names_in(arguments: Sequence[str]) -> list[str]:
    """Names of the heads of `--heads`, or of its default; none if they are wrong, which the parser reports."""
    values = by_flag(arguments).get("--heads")
    first = values[0].partition("=")[2] if values else ""
    heads = [*([first] if first else []), *values[1:]] if values else JointTrainConfig().heads
    return [entry.partition("=")[0] for entry in heads]


def resolved(config: JointTrainConfig, own: Sequence[str], by_head: Mapping[str, Sequence[str]]) -> JointTrainConfig:
    """The settings with those of each head.

    A head's settings are its preset, the training's flags that all tasks have, and the head's own flags, in this order.
    Settings of the whole training, such as epochs and optimiser, are those of the first head.

    Args:
        config: what the training's own arguments say.
        own, by_head: see `split_by_head`.

    Raises UserError for arguments of heads when a run is resumed, and for what the tasks' `train` refuses.
    """
    if config.settings:
        if any(by_head.values()):
            raise UserError("`resume` continues a run with its own settings: leave out those of single heads")
        return config
    forwarded = [word for flag, words in by_flag(own).items() if _is_shared(flag) for word in words]
    heads: dict[str, Any] = {}
    for name, kind in config.kinds.items():
        heads[name] = _parsed(kind, forwarded, by_head.get(name, ()))
    first = next(iter(heads.values()))
    phi = config.phi if config.phi is not None else getattr(first, "phi", 0)
    whole = {key: getattr(first, key) for key in SHARED - NOT_FORWARDED}
    settings = {}
    for name, kind in config.kinds.items():
        common = {key: value for key, value in whole.items() if key not in OF_HEADS}
        common |= {"phi": phi} if kind != "classification" else {"neck": "bifpn"}
        settings[name] = asdict(replace(heads[name], **common))
    data = replace(config.data, workers=first.data.workers)
    return replace(config, **(whole | {"data": data, "class_weights": "none", "phi": phi, "settings": settings}))


def by_flag(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Arguments by flag, without its value. A flag's words include the flag."""
    return group_arguments(arguments, lambda flag: (flag.partition("=")[0], flag))


def without_preset(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """`--config` with its value, and the other arguments. Flags after a preset override it."""
    words = list(arguments)
    for i, word in enumerate(words):
        if word.partition("=")[0] == "--config":
            width = 1 if "=" in word else 2
            return words[i : i + width], words[:i] + words[i + width :]
    return [], words


def _is_shared(flag: str) -> bool:
    name = flag.removeprefix("--").partition("=")[0]
    return flag.startswith("--") and (name.startswith("data.") or name in SHARED - NOT_FORWARDED)


def _parsed(kind: str, forwarded: Sequence[str], own: Sequence[str]) -> TrainConfig:
    """The settings of a head of a kind, with the content of the files that they name."""
    spec = TASKS[kind]
    preset, words = without_preset(own)
    arguments = [*preset, *forwarded, *words]
    return parse(f"{kind}.train", spec.train_config, arguments, "", spec.presets, demo_unless_root).with_files()
