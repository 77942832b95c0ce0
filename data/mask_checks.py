"""What masks show before training: unknown values, classes without a pixel, and data without any labelled pixel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from backbones.errors import BadInput
from data.batch import IGNORE
from data.columns import MaskColumns
from data.findings import EXAMPLES, Finding, warn_or_raise
from data.scan import sample_of

TRAINING = 512  # training masks that are read before training; 512 of 360 x 480 pixels take a second
SCORED = 64


def check_training_masks(columns: MaskColumns, skip_bad: int) -> None:
    """Check up to 512 evenly spaced masks, and all of them where these have no class or a single one.

    Warns about what the format noted, about classes without a pixel, and about a single class.

    Raises BadInput for a mask that cannot be read, with more than `skip_bad` of them, and if no pixel of any mask has a
    class.
    """
    warn_or_raise(Finding("warning", note) for note in columns.notes)
    checked = sample_of(columns, TRAINING)
    counts = _counts(columns, checked, skip_bad)
    enough = min(2, len(columns.classes) - len(columns.ignored))
    if (counts > 0).sum() < enough and len(checked) < len(columns):
        for index in np.setdiff1d(np.arange(len(columns)), checked):
            counts = counts + _counts(columns, [index], skip_bad)
            if (counts > 0).sum() >= enough:
                break
        else:
            checked = np.arange(len(columns))
    if not counts.any():
        raise BadInput(_nothing(columns, "to train on"), settings=("data.ignore_index",))
    warn_or_raise(classes_without_pixels(columns, counts, len(checked)))


def check_scored_masks(columns: MaskColumns, skip_bad: int) -> None:
    """Check up to 64 evenly spaced masks, and further ones until a pixel has a class. Raises as above."""
    checked = sample_of(columns, SCORED)
    if _counts(columns, checked, skip_bad).any():
        return
    rest = np.setdiff1d(np.arange(len(columns)), checked)
    if not any(_counts(columns, [index], skip_bad).any() for index in rest):
        raise BadInput(f"{_nothing(columns, 'to score')}, so mIoU is undefined", settings=("data.ignore_index",))


def _counts(columns: MaskColumns, indices: Iterable[int], skip_bad: int) -> np.ndarray:
    """(K,) int64, pixels of each class in these masks. Raises the first error if more than `skip_bad` masks fail."""
    total, errors = np.zeros(len(columns.classes), np.int64), []
    for counts in _in_threads(columns, indices):
        if isinstance(counts, BadInput):
            errors.append(counts)
            if len(errors) > skip_bad:
                raise errors[0]
        else:
            total += counts
    return total


def _in_threads(columns: MaskColumns, indices: Iterable[int]) -> Iterator[np.ndarray | BadInput]:
    def count(index: int) -> np.ndarray | BadInput:
        try:
            class_map = columns.class_map(int(index))
        except BadInput as error:
            return error
        return np.bincount(class_map.ravel(), minlength=IGNORE + 1)[: len(columns.classes)]

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(count, indices)


def _nothing(columns: MaskColumns, purpose: str) -> str:
    ignored = sorted(columns.classes[i] for i in columns.ignored)
    reason = f". `ignore_index` removes {', '.join(ignored[:EXAMPLES])}" if ignored else ""
    return f"{columns.source} has nothing {purpose}: no pixel of its {len(columns)} masks belongs to a class{reason}"


def classes_without_pixels(columns: MaskColumns, counts: np.ndarray, checked: int) -> Iterator[Finding]:
    """Classes that cannot be learned, and a single class, from the pixels of each class in `checked` masks."""
    present = [name for name, count in zip(columns.classes, counts, strict=True) if count]
    pixels = dict(zip(columns.classes, counts, strict=True))
    empty = [name for i, name in enumerate(columns.classes) if not pixels[name] and i not in columns.ignored]
    of = f"the {len(columns)} masks" if checked == len(columns) else f"{checked} of the {len(columns)} masks"
    if len(present) == 1:
        yield Finding(
            "warning",
            f"{columns.source}: ONLY ONE CLASS. All labelled pixels in {of} are '{present[0]}', so a network that "
            "always predicts it scores mIoU 100. Probably the other classes have mask values that --data.ignore_index "
            "ignores or that --data.mask_values would have to name" + (". Without a pixel" if empty else ""),
            examples=tuple(empty[:EXAMPLES]),
        )
        return
    if empty:
        first = columns.classes[0]
        yield Finding(
            "warning",
            f"{columns.source}: {len(empty)} of {len(columns.classes)} classes have NO PIXEL in {of} and cannot be "
            "learned",
            "If the masks count the classes from 1, name the values with --data.mask_values 1=..."
            if first in empty and columns.mask_files
            else "",
            tuple(empty[:EXAMPLES]),
        )
