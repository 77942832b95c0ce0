"""The demo data: drawn scenes in the layouts of the three tasks. A name is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.demo.writer import LAYOUTS, VERSION, Plan, demo_root

__all__ = ["LAYOUTS", "VERSION", "Plan", "demo_root"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'data.demo' has no attribute '{name}'")
    return getattr(import_module("data.demo.writer"), name)
