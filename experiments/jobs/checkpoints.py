"""Which checkpoints of finished trainings stay, and how large they are."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

    from engine.config import TrainConfig

Keep = Literal["all", "last", "best", "none"]
FILES = ("last", "best")
MOMENTS = {"adamw": 2, "sgd": 1, "rmsprop": 2}  # tensors of the optimiser for each trained one


def kept(keep: Keep) -> set[str]:
    """Names of the checkpoints that stay."""
    return {"all": set(FILES), "none": set()}.get(keep, {keep})


def trim(run_folder: Path, names: Collection[str] = ()) -> None:
    """Delete the checkpoints of a training that has ended, except those with these names."""
    folder = run_folder / "checkpoints"
    if not names:
        shutil.rmtree(folder, ignore_errors=True)
    for name in set(FILES) - set(names):
        (folder / f"{name}.ckpt").unlink(missing_ok=True)


def checkpoint_bytes(model: nn.Module, config: TrainConfig) -> int:
    """Size of a checkpoint: weights, their average if the training has one, and the state of the optimiser."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return weights * (2 if config.ema_decay else 1) + trained * MOMENTS[config.optimizer]
