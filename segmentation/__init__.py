"""Semantic segmentation: the class of every pixel.

Public names are imported when they are first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from backbones.shadowing import check_packages

check_packages(__name__, "data", "engine")

__all__ = ["SegmentationResult", "create_segmenter"]

if TYPE_CHECKING:
    from segmentation.model import create_segmenter
    from segmentation.prediction import SegmentationResult
else:
    _MODULES = {"SegmentationResult": "segmentation.prediction", "create_segmenter": "segmentation.model"}

    # Hidden from type checkers, which would otherwise accept any attribute of this package.
    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'segmentation' has no attribute '{name}'")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
