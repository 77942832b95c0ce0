"""Smaller settings for the demo images. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.cli import demo_unless_root
from experiments.scaling.config import ScalingConfig

DEMO: dict[str, Any] = {"image_size": 72, "epochs": 5, "batch_size": 16}  # 15 minutes on two CPU cores


def sized_for_demo(config: ScalingConfig, train_arguments: Sequence[str]) -> ScalingConfig:
    """Return the settings, with those of `DEMO` for a study of the demo portraits.

    Settings that are given keep their values, and nothing changes where the arguments name a preset.
    """
    names_preset = any(argument.partition("=")[0] == "--config" for argument in train_arguments)
    if config.task != ScalingConfig.task or names_preset or demo_unless_root(list(train_arguments)) is None:
        return config
    return replace(config, **{name: value for name, value in DEMO.items() if getattr(config, name) is None})
