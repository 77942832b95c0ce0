"""Versions of what is stored, and how earlier ones are read: run records, checkpoints and comparison folders.

All three kinds share one number. It is `schema` in `record.json` and in a checkpoint's `run`, and `version` in
`comparison.json`; a file without it is of version 1. Raise the number whenever the meaning of stored content changes,
describe the change in `CHANGES`, extend `upgrade` of the settings concerned, and add a fixture that the code of the
version before made (tests/fixtures). Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from backbones.errors import BadInput


class Settings(Protocol):
    """The class of a task's settings, as far as stored settings need it: see `engine.config.TrainConfig.upgrade`."""

    @classmethod
    def upgrade(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that an earlier version stored, in the names and with the meaning of this one."""


ConfigOf = Callable[[str], type[Settings]]  # task -> class of its settings

SCHEMA = 2
CHANGES = {
    1: "Records and checkpoints have no version. Settings: `data.views` is the number of cached augmentations; padding "
    "and biases of a detector's neck and heads follow the backbone's name.",
    2: "Settings: `data.views` became `data.cached_augmentations`; detection has `style` for padding and biases.",
}
RENAMED_DATA = {"views": "cached_augmentations"}  # settings in `data`: earlier name -> name


def read_record(file: Path, config_of: ConfigOf) -> dict[str, Any]:
    """The content of a `record.json` of any version, as this version stores it.

    Args:
        file: to read.
        config_of: the class of a task's settings, whose `upgrade` reads those of earlier versions.

    Raises BadInput where a newer version wrote it; OSError, ValueError, KeyError, TypeError or AttributeError where it
    is no record.
    """
    stored = json.loads(file.read_text())
    if version(stored, "schema", file) == SCHEMA:
        return stored
    return {"schema": SCHEMA, **stored, "config": config_of(stored["task"]).upgrade(stored["config"])}


def run_fields(stored: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The fields of `RunInfo` in a checkpoint's `run` of any version. Raises BadInput where a newer one wrote it.

    Their settings stay as stored: the task's `TrainConfig.of` upgrades them where it builds the model.
    """
    version(stored, "schema", file)
    return {name: value for name, value in stored.items() if name != "schema"}


def read_comparison(file: Path, config_of: ConfigOf) -> dict[str, Any]:
    """The content of a `comparison.json` of any version, as this version stores it. Raises as `read_record`."""
    stored = json.loads(file.read_text())
    if version(stored, "version", file) == SCHEMA:
        return stored
    shared, differs = {}, {}
    for task, settings in stored["shared"].items():
        names = dict.fromkeys(cell["backbone"] for cell in stored["cells"] if cell["task"] == task)
        of_cells = [dict(flat(config_of(task).upgrade(_nested(settings, name)))) for name in names]
        equal = {name for name in of_cells[0] if all(cell[name] == of_cells[0][name] for cell in of_cells)}
        shared[task] = {name: value for name, value in of_cells[0].items() if name in equal - {"backbone"}}
        found = [name for name in of_cells[0] if name not in equal | {"backbone"}]
        differs[task] = [*map(renamed, stored["differs"][task]), *found]
    return {**stored, "version": SCHEMA, "shared": shared, "differs": differs}


def version(stored: Mapping[str, Any], field: str, file: Path) -> int:
    """The version in `field`, 1 where there is none. Raises BadInput for one that this code does not know."""
    number = stored.get(field, 1)
    if not isinstance(number, int) or number < 1:
        raise BadInput(f"{file} is damaged: its {field} is {number!r}, not a version number")
    if number > SCHEMA:
        raise BadInput(
            f"{file} was written by a newer version of this package (schema {number}; this version reads up to "
            f"{SCHEMA}): update the package"
        )
    return number


def hashed_settings(settings: Mapping[str, Any], kind: type[Settings]) -> dict[str, Any]:
    """Settings in the form that version 1 stored, which keys of trainings are hashes of.

    So a training keeps its key where its settings mean the same. A renamed setting goes by its earlier name. A setting
    that an earlier version did not have counts only where it differs from what `kind.upgrade` fills in, which is what
    that version did.
    """
    filled = kind.upgrade({"backbone": settings["backbone"], "data": {}})
    earlier = {name: before for before, name in RENAMED_DATA.items()}
    kept = {
        name: value
        for name, value in settings.items()
        if name == "backbone" or name not in filled or filled[name] != value
    }
    data = settings["data"].items()
    data = {name: value for name, value in data if name not in filled["data"] or filled["data"][name] != value}
    return kept | {"data": {earlier.get(name, name): value for name, value in data.items()}}


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by their flags' names."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _nested(settings: Mapping[str, Any], backbone: str) -> dict[str, Any]:
    """Settings by their flags' names as a configuration's values, with a backbone."""
    data = {name.removeprefix("data."): value for name, value in settings.items() if name.startswith("data.")}
    rest = {name: value for name, value in settings.items() if not name.startswith("data.")}
    return {**rest, "backbone": backbone, "data": data}


def renamed(flag: str) -> str:
    """The name of a flag, without dashes, that an earlier version stored."""
    prefix, _, name = flag.rpartition(".")
    return f"data.{RENAMED_DATA.get(name, name)}" if prefix == "data" else flag
