"""Data sets on disk -> samples -> batches.

Public names are imported when they are first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Batch",
    "BoxDataset",
    "ClassDataset",
    "Draw",
    "LabelledDataset",
    "MaskDataset",
    "Sample",
    "collate",
    "eval_loader",
    "normalise",
    "read_image",
    "train_loader",
]

if TYPE_CHECKING:
    from data.batch import Batch, Draw, Sample, collate, normalise
    from data.box_dataset import BoxDataset
    from data.class_dataset import ClassDataset
    from data.images import read_image
    from data.loader import eval_loader, train_loader
    from data.mask_dataset import MaskDataset
    from data.protocols import LabelledDataset
else:
    _MODULES = {
        "Batch": "data.batch",
        "ClassDataset": "data.class_dataset",
        "BoxDataset": "data.box_dataset",
        "Draw": "data.batch",
        "LabelledDataset": "data.protocols",
        "MaskDataset": "data.mask_dataset",
        "Sample": "data.batch",
        "collate": "data.batch",
        "eval_loader": "data.loader",
        "normalise": "data.batch",
        "read_image": "data.images",
        "train_loader": "data.loader",
    }

    # Hidden from type checkers, which would otherwise accept any attribute of this package.
    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'data' has no attribute '{name}'")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
