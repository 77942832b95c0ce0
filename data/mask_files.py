"""Mask files -> the values or colours that they store, without any interpretation.

Masks are not read as photographs are: indices into a palette stay indices, 16 bits stay 16 bits, and nothing is scaled.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.errors import BadInput
from data.image_header import ERRORS, FORMATS, PNG_START, as_stored, read_header
from data.images import MAX_PIXELS

# Suffixes, in lower case, of files that are taken for masks.
MASK_SUFFIXES = (
    *(".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".pbm", ".pnm", ".webp"),
    *(".jpg", ".jpeg", ".jpe", ".jfif"),  # lossy: read only where the values are far apart, see data.mask_reader
)
LARGEST = 0xFFFF  # mask value
_BITS_PER_SAMPLE, _REDUCED_OR_MASK = 258, 1 | 4  # TIFF tag; bits of tag 254, NewSubfileType


@dataclass(frozen=True)
class StoredMask:
    """The content of a mask file. It has either values or colours.

    Attributes:
        values: (H, W) uint8 or uint16, gray values or indices into the palette; None for colours.
        palette: (n, 3) uint8, RGB of each index; None without a palette.
        colors: (H, W, 3) uint8 RGB, not all gray; None for values.
        bits: bits of each value. The white of 1-bit files is stored as 1.
        lossy: name of the format if its compression changes values, such as "JPEG".
    """

    values: np.ndarray | None = None
    palette: np.ndarray | None = None
    colors: np.ndarray | None = None
    bits: int = 8
    lossy: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        stored = self.colors if self.values is None else self.values
        assert stored is not None
        return stored.shape[0], stored.shape[1]


@dataclass(frozen=True)
class MaskContent:
    """What a mask file contains, without its pixels.

    Attributes:
        values: stored value -> number of pixels; empty for colours.
        colors: 0xRRGGBB -> number of pixels; empty for values.
        palette, bits, lossy: as in `StoredMask`.
    """

    values: dict[int, int]
    colors: dict[int, int]
    palette: np.ndarray | None
    bits: int
    lossy: str | None

    @classmethod
    def of(cls, stored: StoredMask) -> MaskContent:
        """The content of a mask."""
        values = {} if stored.values is None else counts(stored.values)
        colors = {} if stored.colors is None else counts(color_codes(stored.colors))
        return cls(values, colors, stored.palette, stored.bits, stored.lossy)


def counts(pixels: np.ndarray) -> dict[int, int]:
    """Value -> number of pixels. Fast for masks, because their pixels form few runs of equal values."""
    flat = pixels.ravel()
    if not len(flat):
        return {}
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, len(flat)))
    values, inverse = np.unique(flat[starts], return_inverse=True)
    totals = np.bincount(inverse, weights=lengths).astype(np.int64)
    return dict(zip(values.tolist(), totals.tolist(), strict=True))


def color_codes(colors: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB -> (...) uint32, 0xRRGGBB."""
    wide = colors.astype(np.uint32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def read_mask(path: Path, data: bytes | None = None) -> StoredMask:
    """The stored values or colours of a mask file, or of `data`, its content.

    Colour files whose channels are equal everywhere have values: their gray levels. Alpha is dropped if it does not
    distinguish pixels of the same value.

    Raises BadInput with the file if it is missing, damaged or too large, if it has several pages, if its values are not
    whole numbers from 0 to 65535, and if its alpha distinguishes pixels.
    """
    try:
        data = path.read_bytes() if data is None else data
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read mask {path}: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise BadInput(f"mask {path} is empty (0 bytes), not a PNG or another image file")
    width, height = _size(data)
    if width * height > MAX_PIXELS:
        raise BadInput(f"mask {path} has {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} megapixels")
    try:
        with Image.open(io.BytesIO(as_stored(data)), formats=FORMATS) as image:
            _check_pages(image, path)
            image.load()
            return _stored(image, data, path)
    except ERRORS as error:
        reason = str(error).partition(" <")[0]  # Pillow's message shows the address of a Python object
        raise BadInput(f"cannot decode mask {path} ({len(data)} bytes): {reason}") from error


def _size(data: bytes) -> tuple[int, int]:
    """Width and height that the head of the file states; 0 for a damaged head, whose fault Pillow names."""
    if data.startswith(PNG_START) and len(data) >= 24:
        return struct.unpack_from(">II", data, 16)
    try:
        header = read_header(data)
    except BadInput:
        return 0, 0
    return header.width, header.height


def _check_pages(image: Image.Image, path: Path) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format == "TIFF":
        pages = 0
        for page in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(page)
            pages += not image.tag_v2.get(254, 0) & _REDUCED_OR_MASK  # type: ignore[attr-defined]
        image.seek(0)
    if pages > 1:
        raise BadInput(f"mask {path} has {pages} pages or frames: save one page with one value for each pixel")


def _stored(image: Image.Image, data: bytes, path: Path) -> StoredMask:
    mode, bits, lossy = image.mode, _bits(image, data), _lossy(image, data)
    if data.startswith(PNG_START) and data[24] == 16 and data[25] != 0:
        raise BadInput(f"mask {path} has 16-bit colours, not class values: save it as gray, with a palette or as RGB")
    pixels = np.asarray(image)
    if mode == "1":
        return StoredMask(pixels.astype(np.uint8), bits=1, lossy=lossy)
    if mode == "L":
        # Pillow scales fewer than 8 bits to 0..255.
        return StoredMask(pixels // (255 // (2**bits - 1)) if bits < 8 else pixels, bits=bits, lossy=lossy)
    if mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        if mode == "PA":
            pixels = _without_alpha(pixels, path)[..., 0]
        return StoredMask(pixels, palette, lossy=lossy)
    if mode[0] in "IF":
        return StoredMask(_whole(pixels, path), bits=16, lossy=lossy)
    if mode in ("LA", "RGBA"):
        pixels = _without_alpha(pixels, path)
    elif mode != "RGB":
        raise BadInput(f"mask {path} has pixels of mode {mode}, not class values: save it as gray, palette or RGB")
    if pixels.shape[2] == 1 or ((pixels[..., 0] == pixels[..., 1]) & (pixels[..., 1] == pixels[..., 2])).all():
        return StoredMask(np.ascontiguousarray(pixels[..., 0]), lossy=lossy)
    return StoredMask(colors=pixels, lossy=lossy)


def _bits(image: Image.Image, data: bytes) -> int:
    if data.startswith(PNG_START):
        return data[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    return 8


def _lossy(image: Image.Image, data: bytes) -> str | None:
    """Name of a format that changes values. WebP is lossy unless its pixels are in a chunk VP8L (RFC 9649)."""
    if image.format in ("JPEG", "MPO", "AVIF", "JXL"):
        return str(image.format)
    if image.format == "TIFF" and image.info.get("compression") in ("jpeg", "tiff_jpeg", "webp"):
        return f"TIFF with {image.info['compression']} compression"
    if image.format == "WEBP":
        position = 12
        while position + 8 <= len(data):
            kind, length = struct.unpack_from("<4sI", data, position)
            if kind in (b"VP8 ", b"VP8L"):
                return "WebP" if kind == b"VP8 " else None
            position += 8 + length + length % 2
        return "WebP"
    return None


def _without_alpha(pixels: np.ndarray, path: Path) -> np.ndarray:
    """(H, W, C) without the last channel, which is alpha.

    Raises BadInput if a transparent and another pixel differ in alpha only: then alpha may be what the mask shows.
    """
    alpha = pixels[..., -1]
    opaque = alpha > 0
    if not opaque.all() and opaque.any():
        code = np.zeros(alpha.shape, np.uint32)
        for channel in range(pixels.shape[2] - 1):
            code = code << 8 | pixels[..., channel]
        both = np.intersect1d(np.unique(code[opaque]), np.unique(code[~opaque]))
        if len(both):
            raise BadInput(
                f"mask {path} has transparent and opaque pixels of the same value, so that its classes may be in the "
                "alpha channel: save it without alpha, with one value for each class"
            )
    return pixels[..., :-1]


def _whole(pixels: np.ndarray, path: Path) -> np.ndarray:
    """(H, W) uint16. Raises BadInput for other values than whole numbers from 0 to 65535."""
    if pixels.dtype == np.uint16:
        return pixels
    with np.errstate(invalid="ignore"):
        bad = ~((pixels >= 0) & (pixels <= LARGEST) & (pixels == np.floor(pixels)))
    if bad.any():
        value = pixels[bad][0]
        raise BadInput(
            f"mask {path} has {int(bad.sum())} pixels with other values than whole numbers from 0 to {LARGEST}, such "
            f"as {value:g}"
        )
    return pixels.astype(np.uint16)
