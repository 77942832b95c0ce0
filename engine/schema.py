"""The version of stored files, and reading of earlier versions: run records, checkpoints and comparisons.

All three kinds of files share one version number. It is `schema` in `record.json` and in a checkpoint's `run`, and
`version` in `comparison.json`. A file without it has version 1. If the meaning of stored content changes, raise the
number, describe the change in `CHANGES`, extend `upgrade` of the settings concerned, and add a fixture to
tests/fixtures that the previous version's code wrote. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from backbones.errors import BadInput


class Settings(Protocol):
    """A class of settings that can read stored settings, such as `engine.config.TrainConfig`.

    Attributes:
        version_1: names of the settings that version 1 stored.
    """

    version_1: ClassVar[frozenset[str]]

    @classmethod
    def upgrade(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Convert settings that an earlier version stored to the names and meanings of this version."""


ConfigOf = Callable[[str], type[Settings]]  # task -> class of its settings

SCHEMA = 2
CHANGES = {
    1: "Records and checkpoints have no version. Settings: `data.views` is the number of cached augmentations; padding "
    "and biases of a detector's neck and heads follow the backbone's name.",
    2: "Settings: `data.views` became `data.cached_augmentations`; detection has `style` for padding and biases.",
}
# Settings that version 1 stored. It stored settings of one task that all tasks have now: see `version_1` of that task.
VERSION_1 = frozenset(
    """
    accumulate anchor_scale assignment augment backbone backbone_lr batch_size box_loss class_layer clip color cutmix
    data decoder device ema_decay epochs eval_every eval_size freeze_stride hard_pixels image_size jitter
    label_smoothing losses lr max_share min_crop mixup neck nms norm_momentum optimizer output phi precision pretrained
    protocol resume schedule seed vflip warmup_epochs weight_decay
    data.fraction data.holdout data.ignore_index data.root data.skip_bad data.views data.workers
    """.split()  # noqa: SIM905 - a list would take 50 lines
)
RENAMED_DATA = {"views": "cached_augmentations"}  # settings in `data`: earlier name -> name


def read_record(file: Path, config_of: ConfigOf) -> dict[str, Any]:
    """The content of a `record.json` of any version, converted to this version.

    Args:
        file: path of the `record.json`.
        config_of: returns the class of a task's settings. Its `upgrade` converts settings of earlier versions.

    Raises BadInput if a newer version wrote the file; OSError, ValueError, KeyError, TypeError or AttributeError if it
    is not a record.
    """
    stored = json.loads(file.read_text())
    if version(stored, "schema", file) == SCHEMA:
        return stored
    return {"schema": SCHEMA, **stored, "config": config_of(stored["task"]).upgrade(stored["config"])}


def run_fields(stored: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The fields of `RunInfo` from a checkpoint's `run` of any version. Raises BadInput if a newer version wrote it.

    Settings are returned as stored: the task's `TrainConfig.of` upgrades them when it builds the model.
    """
    version(stored, "schema", file)
    return {name: value for name, value in stored.items() if name != "schema"}


def read_comparison(file: Path, config_of: ConfigOf) -> dict[str, Any]:
    """The content of a `comparison.json` of any version, converted to this version. Raises as `read_record` does."""
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
    """The version number in `field`, or 1 if it is absent. Raises BadInput for invalid numbers and newer versions."""
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
    """Convert settings to the form that version 1 stored. The key of a training is a hash of this form.

    A training therefore keeps its key as long as its settings mean the same. A renamed setting has its earlier name. A
    setting that version 1 did not have is left out if its value means the same as its absence: the value that
    `kind.upgrade` fills in, or else the default.
    """
    absent = absent_settings(kind, settings["backbone"])
    earlier = {name: before for before, name in RENAMED_DATA.items()}
    kept = {name for name, value in flat(settings) if name not in absent or value != absent[name]}
    data = {earlier.get(name, name): value for name, value in settings["data"].items() if f"data.{name}" in kept}
    return {name: value for name, value in settings.items() if name in kept} | {"data": data}


def absent_settings(kind: type[Settings], backbone: str) -> dict[str, Any]:
    """The settings that version 1 did not have, by flag, with the value that means the same as their absence."""
    filled = kind.upgrade({"backbone": backbone, "data": {}})
    defaults = asdict(kind())  # type: ignore[call-overload]
    values = dict(flat(defaults | filled | {"data": defaults["data"] | filled["data"]}))
    earlier = {f"data.{name}": f"data.{before}" for before, name in RENAMED_DATA.items()}
    return {name: value for name, value in values.items() if earlier.get(name, name) not in kind.version_1}


def flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings under the names of their flags, such as `data.root`. Values that are dictionaries stay whole."""
    for name, value in settings.items():
        if name == "data":
            yield from ((f"data.{inner}", content) for inner, content in value.items())
        else:
            yield name, value


def _nested(settings: Mapping[str, Any], backbone: str) -> dict[str, Any]:
    """Settings under the names of their flags -> nested settings, with a backbone."""
    data = {name.removeprefix("data."): value for name, value in settings.items() if name.startswith("data.")}
    rest = {name: value for name, value in settings.items() if not name.startswith("data.")}
    return {**rest, "backbone": backbone, "data": data}


def renamed(flag: str) -> str:
    """The present name of a flag that an earlier version stored. Both names are without dashes."""
    prefix, _, name = flag.rpartition(".")
    return f"data.{RENAMED_DATA.get(name, name)}" if prefix == "data" else flag
