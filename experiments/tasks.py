"""The only list of the tasks of this package. Importing it does not import torch."""

from __future__ import annotations

from backbones.errors import unknown_name
from classification.spec import SPEC as CLASSIFICATION
from detection.spec import SPEC as DETECTION
from engine.spec import TaskSpec
from segmentation.spec import SPEC as SEGMENTATION

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (CLASSIFICATION, DETECTION, SEGMENTATION)}


def task_spec(name: str) -> TaskSpec:
    """The task called `name`. Raises UserError for an unknown name."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]
