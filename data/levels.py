"""The range of values of 16-bit images. Cameras and scanners rarely use all of it: a 12-bit camera uses 1/16."""

from __future__ import annotations

import logging

import numpy as np

from data.columns import Columns
from data.images import decode_values
from data.scan import sample_of, scan

SAMPLE = 64  # images that are decoded to measure the range
FULL = 65535

log = logging.getLogger(__name__)


def measure_levels(columns: Columns) -> tuple[int, int] | None:
    """Lowest and highest value of the 16-bit images among a sample; None if most images have 8 bits.

    The highest value is rounded up to the next 2^k - 1, the range of a camera with k bits. The lowest is 0 unless the
    values use less than half of that range.

    Logs a warning if the values do not fill 16 bits.
    """
    headers = scan(columns, sample_of(columns, SAMPLE))
    deep = headers.index[headers.bits == 16]
    if 2 * len(deep) <= len(headers.index):
        return None
    extremes = []
    for index in deep.tolist():
        path = columns.folder / columns.names[index]
        pixels = decode_values(columns.content(index) if columns.content is not None else path.read_bytes(), path)
        extremes.append((int(pixels.min()), int(pixels.max())))
    low, high = (int(value) for value in (np.min(extremes, axis=0)[0], np.max(extremes, axis=0)[1]))
    ceiling = 2 ** max(1, high.bit_length()) - 1
    lowest = low if high - low < ceiling / 2 else 0
    if (lowest, ceiling) != (0, FULL):
        log.warning(
            "the 16-bit images in %s have values from %d to %d (of %d checked images): they are read with the range "
            "%d to %d, not 0 to %d",
            columns.folder, low, high, len(deep), lowest, ceiling, FULL,
        )  # fmt: skip
    return lowest, ceiling
