"""Read the headers of image files: sizes, orientations and bit depths, without decoding pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import Columns
from data.images import read_header

SAMPLE = 2000  # files whose headers are read before training; reading one takes about 0.1 ms from a warm disk
THREADS = 8


@dataclass(frozen=True)
class Headers:
    """Headers of some images of a data set.

    Attributes:
        index: (n,) index of each image.
        sizes: (n, 2) int64, height and width of the stored pixels; 0 for an image that cannot be read.
        orientation: (n,) EXIF orientation, 1 to 8.
        bits: (n,) bits per channel of the file.
        bands: (n,) channels of the file.
        is_tiff: (n,) bool.
    """

    index: np.ndarray
    sizes: np.ndarray
    orientation: np.ndarray
    bits: np.ndarray
    bands: np.ndarray
    is_tiff: np.ndarray

    @property
    def tagged(self) -> np.ndarray:
        """(n,) bool, whether the image is not upright as it is stored."""
        return self.orientation != 1

    @property
    def is_square(self) -> np.ndarray:
        """(n,) bool."""
        return self.sizes[:, 0] == self.sizes[:, 1]

    @property
    def turned(self) -> np.ndarray:
        """(n,) bool, whether the orientation exchanges width and height."""
        return self.orientation >= 5

    @property
    def upright_sizes(self) -> np.ndarray:
        """(n, 2) height and width after the orientation is applied."""
        return np.where(self.turned[:, None], self.sizes[:, ::-1], self.sizes)


def evenly_spaced(total: int, most: int) -> np.ndarray:
    """At most `most` of the indices below `total`, evenly spaced, the first and the last among them: int64."""
    return np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(np.int64))


def sample_of(columns: Columns, most: int = SAMPLE) -> np.ndarray:
    """Evenly spaced indices of at most `most` images."""
    return evenly_spaced(len(columns), most)


def scan(columns: Columns, indices: Sequence[int] | np.ndarray) -> Headers:
    """Read the headers of these images. An image that cannot be read has size 0: the reader reports it later."""

    def header(index: int) -> tuple[int, ...]:
        return row_of(columns.content(index) if columns.content is not None else columns.folder / columns.names[index])

    if columns.headers is not None:
        rows = columns.headers[np.asarray(indices, np.int64)].astype(np.int64)
    else:
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            rows = np.array(list(pool.map(header, (int(i) for i in indices))), np.int64).reshape(-1, 6)
    orientation, bits, bands, is_tiff = rows[:, 2:].T
    return Headers(np.asarray(indices), rows[:, :2], orientation, bits, bands, is_tiff.astype(bool))


def row_of(content: bytes | Path) -> tuple[int, int, int, int, int, int]:
    """Height, width, EXIF orientation, bits, bands, and whether it is TIFF, of an image. Size 0 if it is unreadable."""
    try:
        found = read_header(content)
    except BadInput:
        return 0, 0, 1, 8, 3, 0
    return found.height, found.width, found.orientation, found.bits, found.bands, int(found.kind == "TIFF")
