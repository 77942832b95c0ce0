"""One backbone and one neck with several heads: train, evaluate, predict, export, compare with single-task networks.

It is an experiment and no fourth task: it composes the three task packages, and a task has one data set, one headline
metric and one kind of result.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["JointNetwork", "create_joint", "load_run"]

if TYPE_CHECKING:
    from experiments.joint.network import JointNetwork, create_joint
    from experiments.joint.runs import load_run
else:
    _MODULES = {
        "JointNetwork": "experiments.joint.network",
        "create_joint": "experiments.joint.network",
        "load_run": "experiments.joint.runs",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'experiments.joint' has no attribute '{name}'")
        return getattr(import_module(_MODULES[name]), name)
