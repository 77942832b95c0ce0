"""Readers of data sets on disk, one module per layout. A new layout is one new file here: see CONTRIBUTING.md.

Each module defines `FORMAT`, or `FORMATS` if it reads several layouts or kinds of labels.
"""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from backbones.errors import BadInput, unknown_name
from data.columns import Columns, Kind

log = logging.getLogger(__name__)

USUAL = ("coco", "folders", "masks")  # the formats that messages show
SURE = 0.5  # a format with a lower score guesses
NEAR = 0.3  # by which the score of another format may be lower whose labels are there as well
TASKS = {"boxes": "object detection", "classes": "image classification", "masks": "semantic segmentation"}
ALIASES = (("train", "training", "train2017"), ("val", "valid", "validation", "val2017", "dev"), ("test", "testing"))


class Sniffed(NamedTuple):
    """How sure a format is that it can read a folder or file, from 0 to 1, and what it found there."""

    score: float
    why: str


@dataclass(frozen=True)
class Split:
    """Where the images and labels of one split are.

    Attributes:
        root: folder of the data set, or the file or folder of this split alone.
        name: one of the format's `splits`, or "" for all of `root`.
        images: folder of the images if it was named (`--data.train FILE:IMAGES`).
    """

    root: Path
    name: str
    images: Path | None = None


@dataclass(frozen=True)
class Format:
    """A layout of data sets.

    Attributes:
        name: as in `--data.format`.
        kind: kind of its labels.
        layout: the folders and files, for messages and for docs/data.md.
        sniff: root -> whether this is its layout; None if it is not. It reads little, whatever the size of the data.
            The root is the folder of a data set, or the file or folder of a single split (`--data.train FILE`).
        splits: root -> names of the splits that it finds. A file without splits is `train`.
        read: split, options -> columns. Raises BadInput naming the file and the cause.
        label_folders: whether it reads any folder of label files if the folder of the images is named, too.
    """

    name: str
    kind: Kind
    layout: str
    sniff: Callable[[Path], Sniffed | None]
    splits: Callable[[Path], list[str]]
    read: Callable[[Split, Any], Columns]
    label_folders: bool = False


@cache
def formats() -> tuple[Format, ...]:
    """All formats, sorted by name."""
    found: list[Format] = []
    for module in pkgutil.iter_modules(__path__):
        content = import_module(f"data.formats.{module.name}")
        found += [*getattr(content, "FORMATS", ()), *([content.FORMAT] if hasattr(content, "FORMAT") else [])]
    return tuple(sorted(found, key=lambda form: form.name))


def recognise(root: Path, kind: Kind | None = None, name: str | None = None) -> tuple[Format, str]:
    """The format of a folder or file, and why it was recognised.

    Args:
        root: folder or file.
        kind: kind of labels to read; None for any.
        name: name of the format if it is known.

    Raises UserError for an unknown name, BadInput if no format or several formats fit, with the expected layouts.
    """
    known = [form for form in formats() if kind in (None, form.kind)]
    if name not in (None, "auto"):
        named = [form for form in known if form.name == name]
        if not named:
            raise unknown_name("format", str(name), {form.name for form in known})
        return named[0], "named by `format`"
    if not root.exists():
        raise BadInput(
            f"no data set at {root}: there is no such folder or file. Pass the place of the data as `root`"
            + _usual(known),
            settings=("data.root",),
        )
    found = [(form, sniffed) for form in known if (sniffed := form.sniff(root)) is not None]
    best = max((sniffed.score for _, sniffed in found), default=0.0)
    first = [(form, sniffed) for form, sniffed in found if sniffed.score == best]
    if len(first) > 1:
        several = "; ".join(f"{form.name}, since {sniffed.why}" for form, sniffed in first)
        raise BadInput(f"{root} can be read in several formats: {several}. Choose one with `format`",
                       settings=("data.format",))  # fmt: skip
    if best < SURE and kind is not None:
        _refuse_other_kind(root, kind, best)
    if not first:
        raise _unrecognised(root, known)
    others = [(form, sniffed) for form, sniffed in found if max(SURE, best - NEAR) < sniffed.score < best]
    if others:
        could = "; ".join(f"{form.name}, since {sniffed.why}" for form, sniffed in others)
        _warn_once(
            f"{root} is read as {first[0][0].name}, since {first[0][1].why}. It has the labels of other formats, too, "
            f"which are not read: {could}. Choose one with --data.format"
        )
    return first[0][0], first[0][1].why


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)


def _refuse_other_kind(root: Path, kind: Kind, score: float) -> None:
    """Raise BadInput if a format of another kind is surer than `score` that it can read these data."""
    others = [(form, form.sniff(root)) for form in formats() if form.kind != kind]
    surer = [(form, sniffed) for form, sniffed in others if sniffed is not None and sniffed.score > max(score, SURE)]
    if surer:
        form, sniffed = max(surer, key=lambda pair: pair[1].score)
        raise BadInput(
            f"{root} is a data set for {TASKS[form.kind]} ({form.name}: {sniffed.why}), not for {TASKS[kind]}. "
            f"Pass a data set for {TASKS[kind]} as `root`, or use the command for {TASKS[form.kind]}",
            settings=("data.root",),
        )


def _unrecognised(root: Path, known: list[Format]) -> BadInput:
    content = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else []
    contains = f" It contains {', '.join(content)}." if content else " It is empty." if root.is_dir() else ""
    return BadInput(f"the layout of {root} is not recognised.{contains} {_layouts(known)}")


def _usual(known: list[Format]) -> str:
    """The layout that most data sets of these kinds have, as an example."""
    usual = next((form for form in known if form.name in USUAL), None)
    return f", such as {' '.join(usual.layout.split())}; docs/data.md has all layouts" if usual is not None else ""


def _layouts(known: list[Format]) -> str:
    layouts = "\n".join(f"  {form.name}: {' '.join(form.layout.split())}" for form in known)
    return f"Layouts that can be read, see docs/data.md:\n{layouts}"


def split_of(splits: list[str], wanted: str) -> str | None:
    """The split of this name, or of another usual name for it, such as `Valid` for `val`; None if there is none."""
    names = next((names for names in ALIASES if wanted.lower() in names), ())
    by_lower = {name.lower(): name for name in reversed(splits)}
    return wanted if wanted in splits else next((by_lower[n] for n in (wanted.lower(), *names) if n in by_lower), None)
