"""Checks that a command resumes a run with its own settings and data."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import BadInput, UserError
from engine.checkpoint import read_run
from engine.config import TrainConfig
from engine.schema import flat
from engine.spec import CommandSpec
from engine.task import Task

# Settings that may differ when a run is resumed. Of data, what they contain is compared, not where they are.
NOT_COMPARED = {
    "resume",
    "output",
    "logger",
    "checkpointing",
    "devices",
    "num_nodes",
    "data.root",
    "data.train",
    "data.val",
    "data.workers",
}


def if_stopped(config: TrainConfig) -> tuple[TrainConfig, dict[str, Any] | None]:
    """What `resume="auto"` stands for: the folder of `output` if it has a run, else None, for a new run there.

    Returns the settings with it, and the record of the run if that is complete.

    Raises UserError without `output`.
    """
    if not config.output:
        raise UserError("`resume='auto'` needs `output`, the folder of the run", settings=("resume", "output"))
    folder = Path(config.output)
    if (folder / "record.json").is_file():
        return config, json.loads((folder / "record.json").read_text())
    return replace(config, resume=str(folder) if (folder / "config.yaml").is_file() else None), None


def check_resume(spec: CommandSpec, config: TrainConfig) -> None:
    """Check that the settings are those of the run to resume, except where they do not change its results.

    Raises BadInput if `config.resume` is not a run folder, UserError if the run is complete or a flag contradicts it.
    """
    folder = Path(str(config.resume))
    file = folder / "config.yaml"
    if not file.is_file():
        raise BadInput(f"--resume {folder} is not a run folder: it has no config.yaml")
    try:
        run_config = type(config).of(yaml.safe_load(file.read_text()))  # adds defaults for settings that it lacks
    except (TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        raise BadInput(f"{file} does not contain settings that this version can read ({error})") from error
    if (folder / "record.json").is_file():
        protocol = " --protocol finetune" if run_config.protocol == "scratch" else ""
        raise UserError(
            f"--resume {folder}: this run is complete. Its scores are in record.json. To train it further, start a new "
            f"run from its weights: python -m {spec.program}.train --config {file} --pretrained {folder}{protocol} "
            "--output NEW_FOLDER"
        )
    # YAML turns tuples into lists, so both must go through it before they are compared.
    stored, requested = (
        dict(flat(yaml.safe_load(yaml.safe_dump(asdict(settings))))) for settings in (run_config, config)
    )
    for name in requested.keys() - NOT_COMPARED:
        if requested[name] != stored[name]:
            raise UserError(
                f"--resume continues {folder} with the settings of that run: --{name} {requested[name]} contradicts "
                f"{stored[name]}. Omit the flag, or start a new run."
            )


def check_data(task: Task, folder: Path, root: Path) -> None:
    """Raise BadInput unless the data of `task`, in the folder `root`, are those of the run in `folder`."""
    stored, _ = read_run(folder)
    if changes := task.data_changes(stored):
        raise BadInput(
            f"--resume {folder}: the data in {root} are not those that this run was trained on: {'; '.join(changes)}. "
            "To resume, restore the data, or name the folder of the unchanged data with --data.root. To train on the "
            f"changed data, start a new run from the weights of this one with --pretrained {folder}."
        )
    task.take_over(stored)  # the file of the weights at its start may have changed since
