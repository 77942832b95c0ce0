"""Classes of a segmenter and of the data that it is scored on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backbones.errors import BadInput


def check_same_classes(model: Sequence[str], data: Sequence[str], root: Path) -> None:
    """Raise BadInput where the classes of the data at `root` are not the model's, in the same order."""
    if list(data) == list(model):
        return
    pairs = zip(model, data, strict=False)
    differing = next((f"'{a}' and '{b}'" for a, b in pairs if a != b), "the last ones")
    raise BadInput(
        f"the model has {len(model)} classes and the data at {root} {len(data)}, and they differ: {differing} have the "
        "same number. They must be the same, in the same order."
    )
