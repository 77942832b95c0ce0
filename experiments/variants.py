"""What the trainings of a study's networks have in common: `experiments.search` and `experiments.scaling`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from backbones.architecture import architecture_of
from backbones.errors import UserError
from experiments.cells import Cell
from experiments.compare import CompareConfig
from experiments.engine.config import Precision
from experiments.grid import FIXED, shared_arguments


class StudyConfig(Protocol):
    """The settings that all studies have."""

    task: str
    base: str
    seed: int
    epochs: int | None
    batch_size: int | None
    image_size: Any
    precision: Precision
    device: str


def training_arguments(config: StudyConfig, asked: Sequence[str], study: str) -> tuple[str, ...]:
    """Arguments that all trainings share, but for the network and what keeps images out of them."""
    for argument in asked:
        name = argument.partition("=")[0]
        if name in (f"--{fixed}" for fixed in (*FIXED, "data.holdout")):
            raise UserError(f"{name} cannot be set for the trainings: the {study} sets it itself")
    names = "epochs", "batch_size", "image_size", "precision", "device"
    alike = CompareConfig(protocol="scratch", **{name: getattr(config, name) for name in names})
    shared = (*shared_arguments(alike, config.task, asked), "--seed", str(config.seed))
    if config.task == "classification" and Cell(config.task, shared).config.image_size is None:
        shared += ("--image_size", str(architecture_of(config.base).image_size))
    return shared
