"""What labels show before training: data that cannot be trained on, and warnings about likely mistakes."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import PurePath

import numpy as np

from backbones.errors import BadInput
from data.class_names import plain_name
from data.columns import BoxColumns, ClassColumns, Columns

TINY = 2.0  # px. If no box is larger, coordinates are probably fractions of the image size.
MOST = 0.5  # share of boxes that leave the image from which the numbers are probably not what they are read as
MOST_REPEATED = 0.01  # share of boxes that may repeat others. Sets that are labelled by hand have a few.
EXAMPLES = 5

log = logging.getLogger(__name__)


def warn_about_left_out(columns: Columns) -> None:
    """Warn about files that the format left out, with the reason."""
    for reason, files in columns.left_out.items():
        suffixes = sorted({PurePath(file).suffix or "none" for file in files})
        log.warning(
            "%s: %d files are left out, because %s: %s%s (suffixes: %s)",
            columns.folder,
            len(files),
            reason,
            ", ".join(files[:EXAMPLES]),
            ", ..." if len(files) > EXAMPLES else "",
            ", ".join(suffixes[:EXAMPLES]),
        )


def warn_about_repeated(columns: Columns) -> None:
    """Warn about files that are listed several times, such as under two ids."""
    files = _paths(columns)
    repeated = [file for file, count in Counter(files).items() if count > 1] if len(set(files)) < len(files) else []
    if repeated:
        log.warning(
            "%s lists %d images more than once, such as %s: each entry is trained on and scored as its own image, "
            "without the labels of the others. Give each image one entry",
            columns.source,
            len(repeated),
            repeated[0],
        )


def warn_about_shared(train: Columns, scored: Columns) -> None:
    """Warn about images to score that are also training images."""
    known = set(_paths(train))
    shared = [file for file in _paths(scored) if file in known]
    if shared:
        log.warning(
            "%d of the %d images to score are also training images, such as %s: the scores do not show how well the "
            "model does on new images",
            len(shared),
            len(scored),
            shared[0],
        )


def warn_about_similar_classes(columns: Columns) -> None:
    """Warn about classes whose names differ only in what a person hardly sees: they are probably one class."""
    first: dict[str, str] = {}
    for name in columns.classes:
        other = first.setdefault(plain_name(name), name)
        if other != name:
            log.warning(
                "%s has the classes %r and %r, whose names differ only in case, spaces, hyphens or the form of their "
                "letters: they are two classes. If they are one, give them one name",
                columns.source,
                other,
                name,
            )


def _paths(columns: Columns) -> list[str]:
    """The files of the images, with links of folders resolved; empty for formats without one file per image."""
    real = cache(os.path.realpath)
    folder = columns.folder
    parts = [] if columns.content is not None else [os.path.split(name) for name in columns.names]
    return [f"{real(os.path.join(folder, parent))}/{name}" for parent, name in parts]


def check_training_boxes(raw: BoxColumns, usable: BoxColumns, targets: int) -> None:
    """Raise BadInput if no box can be trained on. Warn about boxes that are probably in other units or another order.

    Args:
        raw: boxes as annotated.
        usable: those that can be scored.
        targets: number of those that can be trained on.
    """
    if not targets:
        raise BadInput(f"{raw.source} has nothing to train on: {_counts(raw, usable)}")
    finite = np.isfinite(raw.boxes).all(1) & ~raw.crowd
    boxes, sizes = raw.boxes[finite], raw.sizes[raw.image[finite]]
    if np.abs(boxes).max() <= TINY:
        log.warning(
            "%s: no box extends beyond %g px: the coordinates are probably normalised, fractions of the image size. "
            "Multiply them by width and height of the image",
            raw.source,
            TINY,
        )
    leave = (boxes[:, 2] > sizes[:, 1] + 1) | (boxes[:, 3] > sizes[:, 0] + 1)
    if leave.mean() > MOST:
        log.warning(
            "%s: %d of %d boxes leave their image. Probably their numbers are two corners and not a corner with width "
            "and height: if so, pass --data.boxes xyxy",
            raw.source,
            leave.sum(),
            len(boxes),
        )
    warn_about_empty_classes(usable)


def warn_about_repeated_boxes(columns: BoxColumns) -> None:
    """Warn about boxes that occur twice: a detector finds an object once, so the best AP is below 100."""
    factors = np.random.default_rng(0).integers(1, 2**63, 6, dtype=np.uint64)
    rows = np.column_stack([columns.image, columns.label, (columns.boxes + 0.0).view(np.int64)])[~columns.crowd]
    repeated = len(rows) - len(np.unique((rows.astype(np.uint64) * factors).sum(1)))  # sorts a hash of each row
    if repeated > MOST_REPEATED * len(rows):
        log.warning(
            "%s: %d of %d boxes repeat a box of the same class in the same image, as if a file had been read twice. A "
            "detector finds each object once, so its AP is lowered",
            columns.source,
            repeated,
            len(rows),
        )


def check_scored_boxes(raw: BoxColumns, usable: BoxColumns) -> None:
    """Raise BadInput if there is no object to score."""
    if not (~usable.crowd & ~usable.difficult).any():
        raise BadInput(f"{raw.source} has no object to score, so AP is undefined: {_counts(raw, usable)}")


def warn_about_left_out_boxes(raw: BoxColumns, usable: BoxColumns) -> None:
    """Warn about boxes that neither training nor scoring uses."""
    if len(raw.boxes) > len(usable.boxes):
        log.warning(
            "%s: %d of %d boxes are left out of training and scoring: they have no area, are not finite, or are "
            "outside of their image",
            raw.source,
            len(raw.boxes) - len(usable.boxes),
            len(raw.boxes),
        )


def warn_about_empty_classes(columns: BoxColumns | ClassColumns) -> None:
    """Warn about classes without an example in training."""
    counts = np.bincount(columns.label, minlength=len(columns.classes))
    empty = [name for name, count in zip(columns.classes, counts, strict=True) if not count]
    if empty:
        log.warning(
            "%s: %d of %d classes have no example and cannot be learned: %s%s",
            columns.source,
            len(empty),
            len(columns.classes),
            ", ".join(empty[:EXAMPLES]),
            ", ..." if len(empty) > EXAMPLES else "",
        )


def warn_about_unscored_classes(columns: ClassColumns, missing: Sequence[str], total: int) -> None:
    """Warn about classes of the training images that the images to score lack."""
    if missing:
        log.warning(
            "%s: %d of the %d classes have no image, so their accuracy is not measured: %s%s",
            columns.source,
            len(missing),
            total,
            ", ".join(missing[:EXAMPLES]),
            ", ..." if len(missing) > EXAMPLES else "",
        )


def _counts(raw: BoxColumns, usable: BoxColumns) -> str:
    crowds = int(raw.crowd.sum())
    return (
        f"{len(raw)} images with {len(raw.boxes)} boxes, of which {crowds} are crowd regions and "
        f"{len(raw.boxes) - len(usable.boxes)} have no area, are not finite or lie outside of their image"
    )
