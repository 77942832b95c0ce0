"""What labels show before training: data that cannot be trained on or scored, and likely mistakes.

Each check returns findings. Training passes them to `data.findings.warn_or_raise`, and the audit lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

import numpy as np

from data.columns import BoxColumns, ClassColumns, Columns
from data.findings import EXAMPLES, SHOWN, Finding

TINY = 2.0  # px. If no box is larger, coordinates are probably fractions of the image size.
MOST = 0.5  # share of boxes that leave the image from which the numbers are probably not what they are read as


def left_out_files(columns: Columns) -> Iterator[Finding]:
    """Files that the format left out, with the reason."""
    for reason, files in columns.left_out.items():
        suffixes = sorted({PurePath(file).suffix or "no suffix" for file in files})
        yield Finding(
            "warning",
            f"{columns.folder}: {len(files)} files ({', '.join(suffixes[:SHOWN])}) are left out, because {reason}",
            examples=tuple(files[:EXAMPLES]),
        )


def training_boxes(raw: BoxColumns, usable: BoxColumns, targets: int) -> Iterator[Finding]:
    """No box that can be trained on, and boxes that are probably in other units or another order.

    Args:
        raw: boxes as annotated.
        usable: those that can be scored.
        targets: number of those that can be trained on.
    """
    if not targets:
        yield Finding("error", f"{raw.source} has nothing to train on: {_counts(raw, usable)}")
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
