"""How runs are configured, trained, recorded and compared. Importing this package does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.runs import load_run

    __version__: str

__all__ = ["load_run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("backbone-swap")
    if name not in __all__:
        raise AttributeError(f"module 'experiments' has no attribute '{name}'")
    from experiments import runs

    return getattr(runs, name)
