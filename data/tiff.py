"""TIFF files of any number of bands and any pixel type, with all bits: multispectral images, depth, elevation.

Pillow opens few of these files, so tifffile decodes them. LZW, Zstandard, JPEG and other compressions need
the package imagecodecs, too, which the extra `formats` installs.
"""

from __future__ import annotations

import io
import itertools
import logging
import lzma
import os
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from backbones.errors import BadInput

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # damage that matters raises an error

INSTALL = "python -m pip install 'backbone-swap[formats]'"
MOST_PAGES = 4096  # further pages are not read
_REDUCED_OR_MASK = 1 | 4  # bits of the tag NewSubfileType
_MIN_IS_WHITE, _PALETTE = 0, 3  # values of the tag PhotometricInterpretation
_ALPHA = (1, 2)  # values of the tag ExtraSamples
_GDAL_NODATA = 42113  # tag
# Without imagecodecs these decoders write as much as the file asks for. Deflate expands to 1032 times the size at most.
_UNBOUNDED: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}
_DEFLATE_RATIO = 1032


class Pixels(NamedTuple):
    """The pixels of a file.

    Attributes:
        values: (H, W, S) uint8, uint16 or float32, in stored orientation; NaN where the file declares no value.
        alpha: how many of the last samples are declared as alpha.
    """

    values: np.ndarray
    alpha: int = 0


def read_tiff(data: bytes, name: str | os.PathLike[str], limit: int) -> Pixels:
    """The bands of a TIFF in the order of the file, which stores them interleaved, as planes, or as pages.

    Whole numbers of 8 and 16 bits without a sign stay as they are; all other numbers become float32. Masks and smaller
    copies among the pages are left out. Values are inverted where 0 means white.

    Args:
        data: content of the file.
        name: of the file, for messages.
        limit: largest size of the decoded image in bytes.

    Raises BadInput for damaged and truncated files, for larger images, and for pixels that are no measurements.
    """
    from tifffile import TiffFile

    try:
        with TiffFile(io.BytesIO(data)) as file:
            pages = _bands(file)
            shape = pages[0].shaped
            size = len(pages) * int(np.prod(shape, dtype=object)) * _item_size(pages[0], name)
            if size > limit:
                height, width = shape[2:4]
                raise BadInput(
                    f"the header of image {name} says {width} x {height} pixels of {len(pages) * shape[0] * shape[4]} "
                    f"bands, more than the limit of {limit / 2**20:.0f} MiB. Cut the image into tiles."
                )
            for page in pages:
                _check_segments(page, data, name, limit)
            planes = [_values(page) for page in pages]
            alpha = sum(int(kind) in _ALPHA for kind in pages[0].extrasamples)
            return Pixels(planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2), alpha)
    except BadInput:
        raise
    except Exception as error:  # for damaged content tifffile raises errors of any kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, ImportError) or "imagecodecs" in reason:
            reason = f"it is compressed in a way that needs imagecodecs: {INSTALL}"
        raise BadInput(f"cannot decode image {name} ({len(data)} bytes): {reason}") from error


def _bands(file: TiffFile) -> list[TiffPage]:
    """The page with all bands, or the pages with one band each."""
    from tifffile import TiffPage

    found: list[Any] = [
        page
        for page in itertools.islice(file.pages, MOST_PAGES)
        if isinstance(page, TiffPage) and not page.subfiletype & _REDUCED_OR_MASK
    ] or [file.pages[0]]
    first = found[0]
    if first.samplesperpixel > 1:
        return found[:1]
    return [page for page in found if page.shaped == first.shaped and page.dtype == first.dtype]


def _item_size(page: TiffPage, name: str | os.PathLike[str]) -> int:
    """Bytes of a decoded sample. Raises BadInput for pixels that are no measurements."""
    dtype = page.dtype
    if dtype is None or dtype.kind not in "uifb":
        raise BadInput(f"image {name} has pixels of type {dtype}: only whole and floating-point numbers can be read")
    if page.photometric == _PALETTE:
        raise BadInput(f"image {name} has a palette of colours, not measured values: convert it to gray or RGB")
    if page.shaped[1] != 1:
        raise BadInput(f"image {name} has {page.shaped[1]} slices of depth: write each as an image of its own")
    return max(dtype.itemsize, _target(dtype).itemsize)


def _target(dtype: np.dtype) -> np.dtype:
    """The type in which values of a stored type are read."""
    if dtype in (np.bool_, np.uint8):
        return np.dtype(np.uint8)
    return np.dtype(np.uint16) if dtype == np.uint16 else np.dtype(np.float32)


def _values(page: TiffPage) -> np.ndarray:
    """(H, W, S) values of a page."""
    stored = page.asarray(squeeze=False, maxworkers=1)[:, 0]  # (planes, H, W, interleaved samples)
    pixels = stored[0] if stored.shape[0] == 1 else np.moveaxis(stored[..., 0], 0, 2)
    values = pixels.astype(_target(pixels.dtype))
    if pixels.dtype == np.bool_:
        values *= 255
    if page.photometric == _MIN_IS_WHITE and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    if values.dtype == np.float32 and (tag := page.tags.get(_GDAL_NODATA)) is not None:
        values[pixels == np.float64(str(tag.value).strip("\0 "))] = np.nan
    return np.ascontiguousarray(values)


def _check_segments(page: TiffPage, data: bytes, name: str | os.PathLike[str], limit: int) -> None:
    """Raise BadInput for strips and tiles that the file does not contain, and for those that decode to more than fits.

    tifffile fills missing pixels with zeros.
    """
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    ends = [offset + count for offset, count in segments]
    stored = sum(count for _, count in segments)
    if not segments or max(ends) > len(data) or (page.compression == 1 and 0 < stored < _stored_size(page)):
        needed = max([_stored_size(page) if page.compression == 1 else 0, *ends])
        raise BadInput(f"cannot decode image {name} ({len(data)} bytes): it is cut off, its pixels need {needed} bytes")
    decoder = _UNBOUNDED.get(int(page.compression))
    for offset, count in segments if decoder is not None else ():
        if page.compression == 34925 or _DEFLATE_RATIO * count > limit:
            part = decoder().decompress(data[offset : offset + count], limit + 1)  # type: ignore[misc]
            if len(part) > limit:
                raise BadInput(f"cannot decode image {name} ({len(data)} bytes): its pixels decode to more than fits")


def _stored_size(page: TiffPage) -> int:
    """Bytes of the uncompressed pixels of a page, without the padding of tiles."""
    samples = int(np.prod(page.shaped, dtype=object))
    bits = page.bitspersample
    return samples * (bits if isinstance(bits, int) else max(bits)) // 8
