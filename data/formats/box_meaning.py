"""What the four numbers of a box mean, where a format does not define it."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from data.columns import BoxColumns
from data.scan import sample_of, scan

Meaning = Literal["xyxy", "xywh", "cxcywh"]
SLACK = 1.0  # px by which boxes may exceed their image

log = logging.getLogger(__name__)


def recognise_meaning(values: np.ndarray, columns: BoxColumns) -> Meaning:
    """Two corners, or a corner with width and height, from the values.

    The numbers are two corners if the second is beyond the first in all boxes, and if boxes leave their image when read
    as corner, width and height. A warning states what was recognised where both are possible.

    Args:
        values: (N, 4) numbers in pixels.
        columns: the images and the image of each box. Missing sizes are read from a sample of the files.
    """
    known = np.isfinite(values).all(1)
    values, image = values[known], columns.image[known]
    if not len(values):
        return "xywh"
    increasing = bool((values[:, 2:] >= values[:, :2]).all())
    sizes = columns.sizes.copy()
    unknown = np.flatnonzero((sizes < 1).any(1))
    if len(unknown):
        headers = scan(columns, np.intersect1d(unknown, sample_of(columns)))
        sizes[headers.index] = headers.sizes
    limits = np.where(sizes < 1, np.inf, sizes)[image][:, ::-1] + SLACK
    leaving = (values[:, :2] + values[:, 2:] > limits).any(1)
    if not increasing:
        return "xywh"
    if leaving.any():
        return "xyxy"
    log.warning(
        "%s: the numbers of its boxes may be two corners, or a corner with width and height. They are read as a corner "
        "with width and height; if they are two corners, pass --data.boxes xyxy",
        columns.source,
    )
    return "xywh"
