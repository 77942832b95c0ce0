"""Stores the settings that a search was started with, and compares them when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from backbones.errors import BadInput, UserError
from engine.record import write_json
from engine.schema import absent_settings, flat, renamed
from experiments.jobs.cell import HOLDOUT, Cell
from experiments.search.config import SearchConfig

FILE = "search.json"
FIXED = ("task", "base", "sampler", "objective", "cost", "weight", "prune")  # settings that must not change


def search_cell(config: SearchConfig, shared: Sequence[str], backbone: str) -> Cell:
    """Return the training of a network within a search. `shared`: arguments of all trainings."""
    return Cell(config.task, (*shared, "--data.holdout", str(HOLDOUT), "--backbone", backbone))


def fixed_settings(config: SearchConfig, base: Cell) -> dict[str, Any]:
    """Return the settings that must not change within a search, by the names of their flags.

    Args:
        config: of the search.
        base: the training of the base network.
    """
    settings = {f"--{name}": getattr(config, name) for name in FIXED} | flags(config, flat(base.settings))
    return json.loads(json.dumps(settings, default=str))


def flags(config: SearchConfig, settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Settings of a training, other than the backbone, by the names of their flags on the search's command line."""
    return {
        f"--{name}" if hasattr(config, name) or name.startswith("data.") else f"--{config.task}.{name}": value
        for name, value in settings
        if name != "backbone"
    }


def is_stored(config: SearchConfig, base: Cell) -> bool:
    """Whether the search's folder already holds the settings of a search.

    Raises UserError if they differ from these, BadInput if the file is damaged.
    """
    file = Path(config.output) / FILE
    if not file.exists():
        return False
    try:
        content = json.loads(file.read_text())["settings"]
        stored = {f"--{renamed(flag.removeprefix('--'))}": value for flag, value in content.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is damaged ({error!r}): choose another `output`", settings=("output",)) from error
    # Settings that the version of the search did not have. Their values did not depend on the backbone of a trial.
    added = flags(config, absent_settings(type(base.config), "").items())
    for name, value in fixed_settings(config, base).items():
        if value != (before := stored.get(name, added.get(name))):
            raise UserError(
                f"{name} {value}: the search in {config.output} was started with {before}. Resume it with "
                "that, or choose another `output`.",
                settings=("output",),
            )
    return True


def store(config: SearchConfig, base: Cell, target: float) -> None:
    """Write the settings of a new search. `target` is the base's cost."""
    write_json(Path(config.output) / FILE, {"settings": fixed_settings(config, base), "target": target})


def stored_target(config: SearchConfig) -> float:
    """Return the base's cost as it was measured when the search was started."""
    return json.loads((Path(config.output) / FILE).read_text())["target"]
