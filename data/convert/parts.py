"""The splits of a data set on their way from one layout to another."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns, ClassColumns, Columns

C = TypeVar("C", bound=Columns)


@dataclass(frozen=True)
class Part(Generic[C]):
    """A split to write.

    Attributes:
        name: train, val, test, or the name in the data set.
        columns: its images and labels. All parts of a data set have the same classes.
        upright: whether the labels belong to images that are turned by their EXIF orientation.
    """

    name: str
    columns: C
    upright: bool = False


@dataclass
class Report:
    """What was written.

    Attributes:
        splits: name -> number of images and number of labels.
        lost: what the layout cannot hold -> how often it occurred.
    """

    splits: dict[str, tuple[int, int]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)

    def lose(self, what: str, count: int | np.integer[Any]) -> None:
        """Add to what the layout cannot hold."""
        if count:
            self.lost[what] += int(count)


def with_common_classes(parts: Sequence[Part[Any]]) -> list[Part[Any]]:
    """The parts with the classes of all of them, matched by equal names, in the order in which they occur.

    A category keeps its id in the first part that has it, unless that id is taken.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.columns.classes))
    ids: dict[str, int] = {}
    for part in parts:
        columns = part.columns
        own = columns.category_ids if isinstance(columns, BoxColumns) else range(len(columns.classes))
        for name, number in zip(columns.classes, own, strict=True):
            if name not in ids:
                ids[name] = number if number not in ids.values() else max(ids.values()) + 1
    common = [ids[name] for name in names]
    return [replace(part, columns=_with_classes(part.columns, names, common)) for part in parts]


def _with_classes(columns: Any, names: list[str], ids: list[int]) -> Any:
    position = np.array([names.index(name) for name in columns.classes], np.int64)
    if isinstance(columns, BoxColumns):
        return columns.renamed(names, ids, position)
    if isinstance(columns, ClassColumns):
        return replace(columns, classes=tuple(names), label=position[columns.label])
    own_map = columns.class_map
    lookup = np.full(256, 255, np.uint8)
    lookup[: len(position)] = position
    return replace(columns, classes=tuple(names), class_map=lambda index: lookup[own_map(index)])


def distinct(names: Sequence[str], key: Callable[[str], str], report: Report) -> list[str]:
    """The names, with a number in those whose key, such as the name without suffix, occurred before."""
    taken = {key(name) for name in names}
    seen: set[str] = set()
    found = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        number = 2
        if key(name) in seen:
            while key(name := f"{stem}_{number}{suffix}") in taken | seen:
                number += 1
            report.lose("names of files that differ only in their suffix or folder (a number is added)", 1)
        seen.add(key(name))
        found.append(name)
    return found


def stem_of(name: str) -> str:
    """The name without its suffix."""
    return os.path.splitext(name)[0]


def copy_image(columns: Columns, index: int, target: Path) -> None:
    """Copy an image, unchanged."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if columns.content is not None:
        target.write_bytes(columns.content(index))
        return
    source = columns.folder / columns.names[index]
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise BadInput(f"image {source} does not exist") from error


def write_text(file: Path, text: str) -> None:
    """Write a text file in UTF-8 with Unix line ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8", newline="\n")
