"""Comparisons, studies and finished runs: everything that needs more than one task.

Public names are imported when they are first used, so that importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backbones.shadowing import check_packages

check_packages(__name__, "data", "engine", "classification", "detection", "segmentation")

__all__ = ["Run", "__version__", "load_run"]

if TYPE_CHECKING:
    from experiments.runs import Run, load_run

    __version__: str
else:
    # Hidden from type checkers, which would otherwise accept any attribute of this package.
    def __getattr__(name: str) -> object:
        if name == "__version__":
            from backbones.version import package_version

            return package_version()
        if name not in __all__:
            raise AttributeError(f"module 'experiments' has no attribute '{name}'")
        from experiments import runs

        return getattr(runs, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
