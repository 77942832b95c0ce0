"""What labels show before training: data that cannot be trained on, and warnings about likely mistakes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns, ClassColumns, Columns

TINY = 2.0  # px. If no box is larger, coordinates are probably fractions of the image size.
MOST = 0.5  # share of boxes that leave the image from which the numbers are probably not what they are read as
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
