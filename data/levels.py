"""The range of values of images with more than 8 bits. Cameras and scanners rarely use all of it: 12 bits use 1/16."""

from __future__ import annotations

import numpy as np

from backbones.errors import BadInput
from data.columns import Columns
from data.findings import Finding, warn_or_raise
from data.images import decode_values
from data.scan import sample_of, scan

SAMPLE = 256  # images that are decoded to measure the range
FULL = 65535
# Up to this share of the pixels, beyond an empty range of more than half of all values, is left out: such pixels are
# defects or saturated, and would leave few gray levels for all others.
OUTLIERS = 0.005
NARROW = 16  # a range that is this many times that of 99% of the pixels leaves these at most 16 of 256 gray levels


def measure_levels(columns: Columns) -> tuple[int, int] | None:
    """Lowest and highest value in a sample of the images with 16 or 32 bits, without a few outliers.

    None if there are no such images, if their pixels are not whole numbers, or if most images have 8 bits and these
    fill 16 bits. Logs a warning if the values do not fill 16 bits.
    """
    headers = scan(columns, sample_of(columns, SAMPLE))
    deep = headers.index[headers.bits >= 16]
    counts: dict[int, int] = {}
    for index in deep.tolist():
        path = columns.folder / columns.names[index]
        pixels = decode_values(columns.content(index) if columns.content is not None else path.read_bytes(), path)
        if pixels.dtype.kind not in "iu":
            return None
        for value, count in zip(*(part.tolist() for part in np.unique(pixels, return_counts=True)), strict=True):
            counts[value] = counts.get(value, 0) + count
    mixed = 2 * len(deep) <= len(headers.index)
    values = np.array(sorted(counts), np.int64)
    if len(values) == 1 and not mixed:
        raise BadInput(
            f"all pixels of the {len(deep)} checked 16-bit images in {columns.folder} have the value {values[0]}"
        )
    if len(values) < 2:
        return None
    share = np.cumsum([counts[value] for value in values.tolist()])
    share = share / share[-1]
    low, high = _without_outliers(values, share)
    fills = FULL / 2 <= high - low <= FULL
    if mixed and fills:
        return None
    beyond = int(values[0]) < low or int(values[-1]) > high
    if not fills or beyond:
        rest = (
            f", except for a few pixels up to {values[-1] if int(values[-1]) > high else values[0]}" if beyond else ""
        )
        warn_or_raise(
            [
                Finding(
                    "warning",
                    f"the 16-bit images in {columns.folder} have values from {low} to {high} only ({len(deep)} checked)"
                    f"{rest}: this range is scaled to the input of the network, and recorded in the run; values beyond "
                    "it are clipped",
                )
            ]
        )
    usual = int(values[np.searchsorted(share, 0.995)]) - int(values[np.searchsorted(share, 0.005)])
    if (usual + 1) * NARROW <= high - low:
        levels = round(256 * (usual + 1) / (high - low + 1))
        warn_or_raise(
            [
                Finding(
                    "warning",
                    f"99% of the pixels of the 16-bit images in {columns.folder} are within {usual + 1} values of the "
                    f"range from {low} to {high}, so they are read as {levels} of 256 gray levels",
                    "If the rest are outliers, clip them in the files",
                )
            ]
        )
    if len(deep) < len(headers.index):
        warn_or_raise(
            [
                Finding(
                    "warning",
                    f"{len(deep)} of {len(headers.index)} checked images in {columns.folder} have 16 bits, the others "
                    f"8: the range from {low} to {high} of the first is read like 0 to 255 of the others",
                )
            ]
        )
    return low, high


def _without_outliers(values: np.ndarray, share: np.ndarray) -> tuple[int, int]:
    """Lowest and highest value without outliers.

    `values`: (n,) ascending. `share`: (n,) share of the pixels up to each value.
    """
    gaps = np.diff(values)
    widest = int(gaps.argmax())
    if 2 * gaps[widest] > values[-1] - values[0]:
        if 1 - share[widest] <= OUTLIERS and widest > 0:
            return int(values[0]), int(values[widest])
        if share[widest] <= OUTLIERS and widest < len(gaps) - 1:
            return int(values[widest + 1]), int(values[-1])
    return int(values[0]), int(values[-1])
