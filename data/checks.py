"""What labels show before training: data that cannot be trained on or scored, and likely mistakes.

Each check returns findings. Training passes them to `data.findings.warn_or_raise`, and the audit lists them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

from data.class_names import plain_name
from data.columns import BoxColumns, ClassColumns, Columns
from data.findings import EXAMPLES, SHOWN, Finding
from data.names import Names

TINY = 2.0  # px. If no box is larger, coordinates are probably fractions of the image size.
MOST = 0.5  # share of boxes that leave the image from which the numbers are probably not what they are read as
MOST_REPEATED = 0.01  # share of boxes that may repeat others. Sets that are labelled by hand have a few.


def left_out_files(columns: Columns) -> Iterator[Finding]:
    """Files that the format left out, with the reason."""
    for reason, files in columns.left_out.items():
        suffixes = sorted({PurePath(file).suffix or "no suffix" for file in files})
        yield Finding(
            "warning",
            f"{columns.folder}: {len(files)} files ({', '.join(suffixes[:SHOWN])}) are left out, because {reason}",
            examples=tuple(files[:EXAMPLES]),
        )


def repeated_files(columns: Columns) -> Iterator[Finding]:
    """Files that are listed several times, such as under two ids."""
    if columns.content is not None or (Names.of(columns.names).are_unique and not _share_folders(columns)):
        return
    repeated = [file for file, count in Counter(_paths(columns)).items() if count > 1]
    if repeated:
        yield Finding(
            "warning",
            f"{columns.source} lists {len(repeated)} images more than once: each entry is trained on and scored as its "
            "own image, without the labels of the others",
            "Give each image one entry",
            examples=tuple(repeated[:EXAMPLES]),
        )


def shared_files(train: Columns, scored: Columns) -> Iterator[Finding]:
    """Images to score that are also training images."""
    if train.content is not None or scored.content is not None:
        return
    if set(_real_folders(train).values()).isdisjoint(_real_folders(scored).values()):
        return  # a million paths need not be compared
    known = set(_paths(train))
    shared = [file for file in _paths(scored) if file in known]
    if shared:
        yield Finding(
            "warning",
            f"{len(shared)} of the {len(scored)} images to score are also training images: the scores do not show how "
            "well the model does on new images",
            examples=tuple(shared[:EXAMPLES]),
        )


def similar_classes(columns: Columns) -> Iterator[Finding]:
    """Classes whose names differ only in what a person hardly sees: they are probably one class."""
    first: dict[str, str] = {}
    for name in columns.classes:
        other = first.setdefault(plain_name(name), name)
        if other != name:
            yield Finding(
                "warning",
                f"{columns.source} has the classes {other!r} and {name!r}, whose names differ only in case, spaces, "
                "hyphens or the form of their letters: they are two classes",
                "If they are one, give them one name",
            )


def _paths(columns: Columns) -> list[str]:
    """The files of the images, with links of folders resolved."""
    real = _real_folders(columns)
    return [f"{real[parent]}/{name}" for parent, _, name in (name.rpartition("/") for name in columns.names)]


def _real_folders(columns: Columns) -> dict[str, str]:
    """Folders of the images, relative to `columns.folder` -> these folders with links resolved."""
    return {parent: os.path.realpath(columns.folder / parent) for parent in Names.of(columns.names).folders}


def _share_folders(columns: Columns) -> bool:
    """Whether two folders of the images are one folder, by a link."""
    real = _real_folders(columns)
    return len(set(real.values())) < len(real)


def training_boxes(raw: BoxColumns, usable: BoxColumns, targets: int) -> Iterator[Finding]:
    """No box that can be trained on, and boxes that are probably in other units or another order.

    Args:
        raw: boxes as annotated.
        usable: those that can be scored.
        targets: number of those that can be trained on.
    """
    if not targets:
        yield Finding(
            "error",
            f"{raw.source} has nothing to train on: {_counts(raw, usable)}",
            "`python -m experiments.audit ROOT --quick` shows what was read",
        )
        return
    finite = np.isfinite(raw.boxes).all(1) & ~raw.crowd
    boxes, sizes = raw.boxes[finite], raw.sizes[raw.image[finite]]
    if np.abs(boxes).max() <= TINY:
        yield Finding(
            "warning",
            f"{raw.source}: no box extends beyond {TINY:g} px: the coordinates are probably normalised, fractions of "
            "the image size",
            "Multiply them by width and height of the image",
        )
    leave = (boxes[:, 2] > sizes[:, 1] + 1) | (boxes[:, 3] > sizes[:, 0] + 1)
    if leave.mean() > MOST:
        yield Finding(
            "warning",
            f"{raw.source}: {leave.sum()} of {len(boxes)} boxes leave their image. Probably their numbers are two "
            "corners and not a corner with width and height",
            "If so, pass --data.boxes xyxy",
        )
    yield from empty_classes(usable)


def repeated_boxes(columns: BoxColumns) -> Iterator[Finding]:
    """Boxes that occur twice: a detector finds an object once, so the best AP is below 100."""
    factors = np.random.default_rng(0).integers(1, 2**63, 6, dtype=np.uint64)
    corners = (columns.boxes + 0.0).view(np.uint64).T  # + 0.0: of the two zeros, one
    values = [columns.image.astype(np.uint64), columns.label.astype(np.uint64), *corners]
    hashes = np.sum([value * factor for value, factor in zip(values, factors, strict=True)], axis=0)[~columns.crowd]
    hashes.sort()
    repeated = int((hashes[1:] == hashes[:-1]).sum())
    if repeated > MOST_REPEATED * len(hashes):
        yield Finding(
            "warning",
            f"{columns.source}: {repeated} of {len(hashes)} boxes repeat a box of the same class and image, as if "
            "a file had been read twice. A detector finds each object once, so its AP is lowered",
        )


def scored_boxes(raw: BoxColumns, usable: BoxColumns) -> Iterator[Finding]:
    """No object to score."""
    if not (~usable.crowd & ~usable.difficult).any():
        yield Finding("error", f"{raw.source} has no object to score, so AP is undefined: {_counts(raw, usable)}")


def left_out_boxes(raw: BoxColumns, usable: BoxColumns) -> Iterator[Finding]:
    """Boxes that neither training nor scoring uses."""
    count = len(raw.boxes) - len(usable.boxes)
    if count:
        yield Finding(
            "warning",
            f"{raw.source}: {count} of {len(raw.boxes)} boxes are left out of training and scoring: they have no area, "
            "are not finite, or are outside of their image",
        )


def empty_classes(columns: BoxColumns | ClassColumns) -> Iterator[Finding]:
    """Classes without an example in training."""
    counts = np.bincount(columns.label, minlength=len(columns.classes))
    empty = [name for name, count in zip(columns.classes, counts, strict=True) if not count]
    if empty:
        yield Finding(
            "warning",
            f"{columns.source}: {len(empty)} of {len(columns.classes)} classes have no example and cannot be learned",
            examples=tuple(empty[:EXAMPLES]),
        )


def unscored_classes(columns: ClassColumns, missing: Sequence[str], total: int) -> Iterator[Finding]:
    """Classes of the training images that the images to score lack."""
    if missing:
        yield Finding(
            "warning",
            f"{columns.source}: {len(missing)} of the {total} classes have no image, so their accuracy is not measured",
            examples=tuple(missing[:EXAMPLES]),
        )


def _counts(raw: BoxColumns, usable: BoxColumns) -> str:
    crowds = int(raw.crowd.sum())
    return (
        f"{len(raw)} images with {len(raw.boxes)} boxes, of which {crowds} are crowd regions and "
        f"{len(raw.boxes) - len(usable.boxes)} have no area, are not finite or lie outside of their image"
    )
