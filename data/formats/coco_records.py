"""Checked columns of the records of a COCO file."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET, UnsetType

from backbones.errors import BadInput

LARGEST = 2**53  # largest integer up to which float64 is exact; JSON does not distinguish 1 from 1.0
# An area may exceed its box by this factor, since tools round boxes and areas differently.
AREA_TOLERANCE = 1.1


class Records:
    """Validated columns: the values of one key in a list of records. Raises BadInput with the file and the record."""

    def __init__(self, tables: dict[str, list[Any]], file: Path) -> None:
        self.tables, self.file = tables, file

    def values(self, table: str, key: str, default: Any = UNSET) -> list[Any]:
        """The values of a key. Without a default, every record must have it."""
        values = list(map(attrgetter(key), self.tables[table]))
        if UnsetType not in set(map(type, values)):
            return values
        if default is UNSET:
            absent = next(i for i, value in enumerate(values) if value is UNSET)
            raise BadInput(f"{self.file}: {table}[{absent}] has no '{key}'")
        return [default if value is UNSET else value for value in values]

    def has(self, table: str, key: str) -> np.ndarray:
        """(n,) bool, whether a record has this key."""
        return np.array([getattr(record, key) is not UNSET for record in self.tables[table]], bool)

    def integers(self, table: str, key: str, default: Any = UNSET) -> np.ndarray:
        """(n,) int64. Floating-point numbers and texts are accepted if they are whole numbers."""
        values = self.values(table, key, default)
        try:
            column = np.array(values) if values else np.zeros(0, np.int64)
            column = column.astype(np.float64) if column.dtype.kind == "U" else column
        except ValueError:  # some values are lists of different lengths, or texts
            column = np.array([None])
        whole = column.dtype.kind in "biu" or (column.dtype.kind == "f" and bool((column == np.round(column)).all()))
        if not whole or column.ndim != 1 or (np.abs(column) > LARGEST).any():
            index = next((i for i, value in enumerate(values) if not is_whole(value)), 0)
            raise BadInput(
                f"{self.file}: {table}[{index}] has {key} {values[index]!r}, {_why_not_whole(values[index])}"
            )
        return column.astype(np.int64)

    def unique(self, table: str, key: str) -> np.ndarray:
        """(n,) int64, without duplicates."""
        column = self.integers(table, key)
        values, counts = np.unique(column, return_counts=True)
        if len(values) < len(column):
            raise BadInput(f"{self.file}: {key} {values[counts > 1][0]} occurs more than once in {table}")
        return column

    def names_of_categories(self) -> list[str]:
        """The names of the categories. Numbers are accepted as names, empty texts are not."""
        names = self.values("categories", "name")
        usable = [isinstance(name, str | int | float) and str(name).strip() != "" for name in names]
        self.refuse(~np.array(usable, bool), "categories", "a name that is neither a text nor a number, or is empty")
        return [str(name) for name in names]

    def boxes(self) -> np.ndarray:
        """(N, 4) float64: x, y, width, height."""
        values = self.values("annotations", "bbox")
        try:
            return np.array(values, np.float64).reshape(len(values), 4)
        except (ValueError, TypeError, OverflowError):
            index = next((i for i, value in enumerate(values) if not _is_box(value)), 0)
            raise BadInput(
                f"{self.file}: annotations[{index}] has bbox {values[index]!r}, not four numbers x, y, width, height"
            ) from None

    def areas(self, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
        """(N,) float64, px^2. NaN for areas that are missing or impossible: not positive, or larger than the box."""
        values = self.values("annotations", "area", default=float("nan"))
        try:
            areas = np.array(values, np.float64).reshape(len(values))
        except (ValueError, TypeError, OverflowError):
            areas = np.array([_number(value) for value in values], np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            largest = AREA_TOLERANCE * (boxes[:, 2:] - boxes[:, :2] + 1).prod(1)
            possible = (areas > 0) & (crowd | (areas <= largest))
        return np.where(possible, areas, np.nan)

    def positions(self, key: str, known: np.ndarray) -> np.ndarray:
        """Positions in `known`, which is not empty, of the annotations' ids."""
        ids = self.integers("annotations", key)
        position, found = positions_of(ids, known)
        if not found.all():
            self.refuse(~found, "annotations", f"{key} {ids[~found][0]}, which the file does not list")
        return position

    def refuse(self, bad: np.ndarray, table: str, what: str) -> None:
        """Raise BadInput for the first record that is bad."""
        if bad.any():
            raise BadInput(f"{self.file}: {table}[{int(bad.argmax())}] has {what}")


def positions_of(ids: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) position of each id in `known`, which is not empty, and (N,) bool, whether it is there."""
    order = np.argsort(known)
    position = order[np.searchsorted(known[order], ids).clip(max=len(known) - 1)]
    return position, known[position] == ids


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number up to `LARGEST`, or its text."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return number == round(number) and abs(number) <= LARGEST if np.isfinite(number) else False


def _why_not_whole(value: Any) -> str:
    large = isinstance(value, int | float) and abs(value) > LARGEST
    return "which is beyond 2**53 and would be rounded: number the records from 1" if large else "not a whole number"


def _number(value: Any) -> float:
    """The number; NaN for anything else."""
    try:
        return float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:
        return np.nan


def _is_box(value: Any) -> bool:
    try:
        return isinstance(value, list) and np.array(value, np.float64).shape == (4,)
    except (ValueError, TypeError, OverflowError):
        return False
