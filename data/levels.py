"""The range of values of 16-bit images. Cameras and scanners rarely use all of it: a 12-bit camera uses 1/16."""

from __future__ import annotations

import numpy as np

from backbones.errors import BadInput
from data.columns import Columns
from data.findings import Finding, warn_or_raise
from data.images import decode_values
from data.scan import sample_of, scan

SAMPLE = 256  # images that are decoded to measure the range
FULL = 65535


def measure_levels(columns: Columns) -> tuple[int, int] | None:
    """Lowest and highest value in a sample of the images; None unless most of them have 16 bits.

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
    low, high = int(np.min(extremes)), int(np.max(extremes))
    if low == high:
        raise BadInput(f"all pixels of the {len(deep)} checked 16-bit images in {columns.folder} have the value {low}")
    if high - low < FULL / 2:
        finding = Finding(
            "warning",
            f"the 16-bit images in {columns.folder} have values from {low} to {high} only ({len(deep)} checked): this "
            "range is scaled to the input of the network, and recorded in the run; values beyond it are clipped",
        )
        warn_or_raise([finding])
    return low, high
