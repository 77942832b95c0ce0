"""Datasets on disk -> samples -> batches. Names load on first use, so that importing the package costs nothing."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.batch import Batch, Draw, Sample, collate, normalise
    from data.formats.coco import CocoDetection
    from data.formats.folders import ClassFolders
    from data.formats.masks import MaskFolders
    from data.images import read_image
    from data.loader import eval_loader, train_loader
    from data.transforms import detection_train, letterbox

_HOMES = {
    "batch": ("Batch", "Draw", "Sample", "collate", "normalise"),
    "formats.coco": ("CocoDetection",),
    "formats.folders": ("ClassFolders",),
    "formats.masks": ("MaskFolders",),
    "images": ("read_image",),
    "loader": ("eval_loader", "train_loader"),
    "transforms": ("detection_train", "letterbox"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Batch",
    "ClassFolders",
    "CocoDetection",
    "Draw",
    "MaskFolders",
    "Sample",
    "collate",
    "detection_train",
    "eval_loader",
    "letterbox",
    "normalise",
    "read_image",
    "train_loader",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"data.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'data' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
