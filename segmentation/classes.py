"""Compare the classes of a model with those of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones.errors import BadInput


def check_same_classes(model: Sequence[str], data: Sequence[str], root: Path) -> None:
    """Raise BadInput unless the data in the folder `root` has the model's classes, in the same order."""
    if list(data) == list(model):
        return
    pairs = enumerate(zip(model, data, strict=False))
    shorter = min(len(model), len(data))
    difference = next(
        (f"class {i} is '{a}' in the model and '{b}' in the data" for i, (a, b) in pairs if a != b),
        f"only one of them has a class {shorter}",
    )
    raise BadInput(
        f"the model has {len(model)} classes and the data in {root} has {len(data)}, and they differ: {difference}. "
        "Both must have the same classes in the same order."
    )
