"""Reads stored records of trainings, of any task and of this or any earlier version."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from backbones.errors import BadInput
from engine import schema
from engine.config import TrainConfig
from experiments.tasks import task_spec


def config_of(task: str) -> type[TrainConfig]:
    """The class of a task's settings. Raises UserError for an unknown task."""
    return task_spec(task).train_config


def read_record(run: Path) -> dict[str, Any]:
    """The record of the finished run in a folder. Raises BadInput if it is absent, damaged or too new."""
    file = run / "record.json"
    try:
        return schema.read_record(file, config_of)
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is not the record of a run ({error})") from error


def scores_by_epoch(run_folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return (epoch, score) of each evaluation of a training. Epochs count from 1, scores are fractions."""
    with (run_folder / "metrics.csv").open(newline="") as file:
        return [(int(row["epoch"]) + 1, float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]
