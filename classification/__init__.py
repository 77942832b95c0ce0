"""Image classification: published networks, and pyramids that are fused and pooled.

Public names are imported when they are first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from backbones.shadowing import check_packages

check_packages(__name__, "data", "engine")

__all__ = ["ClassificationResult", "create_classifier"]

if TYPE_CHECKING:
    from classification.build import create_classifier
    from classification.prediction import ClassificationResult
else:
    _MODULES = {"ClassificationResult": "classification.prediction", "create_classifier": "classification.build"}

    # Hidden from type checkers, which would otherwise accept any attribute of this package.
    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'classification' has no attribute '{name}'")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
