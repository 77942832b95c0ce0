"""Networks and necks: PyTorch modules without knowledge of tasks.

Public names are imported when they are first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = [
    "Backbone",
    "BadInput",
    "Level",
    "Neck",
    "UserError",
    "create_backbone",
    "create_neck",
    "list_backbones",
    "prepare_for_inference",
]

if TYPE_CHECKING:
    from backbones.base import Backbone, Level, Neck
    from backbones.errors import BadInput, UserError
    from backbones.factory import create_backbone, list_backbones
    from backbones.inference import prepare_for_inference
    from backbones.necks import create_neck

    __version__: str
else:
    _MODULES = {
        "Backbone": "backbones.base",
        "BadInput": "backbones.errors",
        "Level": "backbones.base",
        "Neck": "backbones.base",
        "UserError": "backbones.errors",
        "create_backbone": "backbones.factory",
        "create_neck": "backbones.necks",
        "list_backbones": "backbones.factory",
        "prepare_for_inference": "backbones.inference",
    }

    # Hidden from type checkers, which would otherwise accept any attribute of this package.
    def __getattr__(name: str) -> object:
        if name == "__version__":
            from backbones.version import package_version

            return package_version()
        if name not in _MODULES:
            raise AttributeError(f"module 'backbones' has no attribute '{name}'")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
