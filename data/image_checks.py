"""What the headers of images show: orientations that labels do not resolve, and bands that are not read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.columns import Columns
from data.findings import Finding
from data.scan import Headers


def unclear_orientations(columns: Columns, headers: Headers, unclear: np.ndarray) -> Iterator[Finding]:
    """Images whose labels do not show whether they were made on the stored or on the upright image.

    Args:
        columns: of the images.
        headers: of the checked images.
        unclear: (n,) bool, for each header.
    """
    if unclear.any():
        yield Finding(
            "warning",
            f"{unclear.sum()} of {len(headers.index)} checked images in {columns.folder} have an EXIF orientation, and "
            "their labels do not show whether they belong to the upright image. They are read as stored",
            "If they belong to the upright image, pass --data.exif apply; if not, --data.exif ignore",
        )


def further_bands(columns: Columns, headers: Headers) -> Iterator[Finding]:
    """TIFF files with more bands than red, green and blue."""
    more = (headers.bands > 3) & headers.is_tiff
    if more.any():
        yield Finding(
            "warning",
            f"{more.sum()} of {len(headers.index)} checked images in {columns.folder} are TIFF files with "
            f"{headers.bands[more].max()} bands: only the first three are read, as red, green and blue",
            f"To read all with their bits, pass --data.channels {headers.bands[more].max()}",
        )
