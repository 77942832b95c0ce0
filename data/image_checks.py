"""What the headers of images show: orientations that labels do not resolve, and bands that are not read."""

from __future__ import annotations

import logging

import numpy as np

from data.columns import Columns
from data.scan import Headers

log = logging.getLogger(__name__)


def warn_about_orientation(columns: Columns, headers: Headers, unclear: np.ndarray) -> None:
    """Warn about images whose labels do not show whether they were made on the stored or on the upright image.

    Args:
        columns: of the images.
        headers: of the checked images.
        unclear: (n,) bool, for each header.
    """
    if unclear.any():
        log.warning(
            "%d of %d checked images in %s have an EXIF orientation, and their labels do not show whether they belong "
            "to the upright image. They are read as stored. If they belong to the upright image, pass --data.exif "
            "apply; if not, --data.exif ignore",
            unclear.sum(),
            len(headers.index),
            columns.folder,
        )


def warn_about_bands(columns: Columns, headers: Headers) -> None:
    """Warn about TIFF files with more bands than red, green and blue."""
    more = (headers.bands > 3) & headers.is_tiff
    if more.any():
        log.warning(
            "%d of %d checked images in %s are TIFF files with %d bands: only the first three are read, as red, green "
            "and blue",
            more.sum(),
            len(headers.index),
            columns.folder,
            headers.bands[more].max(),
        )
