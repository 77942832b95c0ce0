"""Files that settings name. Their content replaces the name, so that runs do not depend on the files. Torch-free."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import BadInput

WEIGHTS, AUGMENT = "class_weights", "data.augment"
MAX_VALUES = 10_000  # of a pipeline


def read_class_weights(value: str | Mapping[Any, Any]) -> str | dict[str, float]:
    """Weights by class name for the setting `class_weights`. "none" and "auto" are returned unchanged.

    Args:
        value: "none", "auto", weights by name, or a file. YAML and JSON files map names to weights. Lines of CSV and
            TSV files are a name and a weight, with or without a header.

    Raises BadInput with the file and the cause.
    """
    if isinstance(value, str):
        if value in ("none", "auto"):
            return value
        return _checked(_weights_in(value), value)
    return _checked(value.items(), "the settings")


def in_order(weights: Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """The weights in the order of the classes. Raises BadInput if names are unknown or missing."""
    unknown = [name for name in weights if name not in classes]
    missing = [name for name in classes if name not in weights]
    if unknown or missing:
        parts = [f"no class of the data is called {', '.join(unknown[:5])}"] if unknown else []
        parts += [f"there is no weight for {', '.join(missing[:5])}"] if missing else []
        raise _bad(f"`{WEIGHTS}` does not fit the data: {', and '.join(parts)}. It needs each class once", WEIGHTS)
    return [weights[name] for name in classes]


def _weights_in(name: str) -> Iterable[tuple[Any, Any]]:
    text = _text(name, WEIGHTS, "none, auto")
    suffix = Path(name).suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        delimiter = "\t" if suffix == ".tsv" or "\t" in text else ","
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
        if wrong := next((row for row in rows if len(row) != 2), None):
            raise _bad(f"{name} has the line {delimiter.join(wrong)!r}: expected a class name and its weight", WEIGHTS)
        return rows[1:] if rows and not _is_number(rows[0][1]) else rows  # type: ignore[return-value]
    content = _parsed(text, name, WEIGHTS)
    if not isinstance(content, dict):
        raise _bad(f"{name} must map class names to weights, as in `cat: 2.0`", WEIGHTS)
    return content.items()


def _checked(pairs: Iterable[tuple[Any, Any]], source: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for name, value in pairs:
        name = str(name).strip()
        if name in weights:
            raise _bad(f"{source} has two weights for the class '{name}'", WEIGHTS)
        if not _is_number(value) or not 0 < float(value) < math.inf:
            raise _bad(
                f"{source} has the weight {value!r} for the class '{name}': it must be a number above 0", WEIGHTS
            )
        weights[name] = float(value)
    if not weights:
        raise _bad(f"{source} has no weights", WEIGHTS)
    return weights


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)


def read_pipeline(value: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """The pipeline for the setting `data.augment`, as `albumentations.to_dict` returns it.

    "recipe" and "none" are returned unchanged.

    Args:
        value: "recipe", "none", a pipeline, or a YAML or JSON file that `albumentations.save` wrote.

    Raises BadInput with the file and the cause. The transforms themselves are not checked.
    """
    if isinstance(value, str):
        if value in ("recipe", "none"):
            return value
        text = _text(value, AUGMENT, "recipe, none")
        try:
            content = json.loads(text) if Path(value).suffix.lower() == ".json" else yaml.safe_load(text)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise _bad(f"{value} is not valid: {' '.join(str(error).split())}", AUGMENT) from error
    else:
        content, value = value, "`augment`"
    if not isinstance(content, Mapping) or not isinstance(content.get("transform"), Mapping):
        raise _bad(
            f"{value} is not a pipeline that albumentations saved, as by `A.save(pipeline, FILE, data_format='yaml')`: "
            "it has no `transform`",
            AUGMENT,
        )
    _check_size(content, value)
    return dict(content)


def _check_size(content: Any, source: str) -> None:
    """Raise BadInput for nested content that is too large. Aliases of YAML can make a small file arbitrarily large."""
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MAX_VALUES:
            raise _bad(f"{source} has more than {MAX_VALUES} values", AUGMENT)
        waiting += value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else []


def _parsed(text: str, name: str, setting: str) -> Any:
    """The content of a YAML or JSON file. All scalars of YAML are texts, so that a class can be called `no` or 3."""
    try:
        return json.loads(text) if Path(name).suffix.lower() == ".json" else yaml.load(text, yaml.BaseLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise _bad(f"{name} is not valid: {' '.join(str(error).split())}", setting) from error


def _text(name: str, setting: str, alternatives: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise _bad(
            f"`{setting.rpartition('.')[2]}={name}` is neither {alternatives} nor a file that can be read: {cause}",
            setting,
        ) from error


def _bad(message: str, setting: str) -> BadInput:
    return BadInput(message, settings=(setting,))
