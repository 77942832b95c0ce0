"""Image files -> uint8 RGB arrays: whatever the format, in the orientation in which the pixels are stored.

EXIF orientation is ignored everywhere. COCO boxes and ADE20K masks are in stored pixel coordinates (the JSON's width
and height say so, and pycocotools assumes it); turning the image but not its labels would silently spoil both.
"""

import io
import os
import struct
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from backbones.errors import BadInput

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb: 0.5 GiB as uint8 RGB

# Only formats that decode in-process: Pillow hands EPS, for one, to an external interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

_ORIENTATION = 0x0112  # EXIF and TIFF tag
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_PLAIN = {(8, 0), (8, 2), (8, 6)}  # (bit depth, colour type): gray, RGB, RGBA
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC


class _Header(NamedTuple):
    """`plain`: complete, 8 bits, gray or RGB(A), so that OpenCV's lenient decoder is safe to use."""

    width: int
    height: int
    plain: bool


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB, in stored orientation. Thread-safe.

    Gray is repeated over the channels, CMYK and palettes are converted, 16 bits keep their high byte. Alpha is dropped,
    not composited: that is what torchvision's and timm's loaders do, so published accuracies hold. The first frame of
    an animation is read. The content decides the format, never the file's suffix.

    Raises `BadInput` naming the file if it is missing, empty, truncated, no image, or larger than `max_pixels`
    (at most `MAX_PIXELS`); that last is decided from the header, before memory is allocated.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read image {path}: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise BadInput(f"image {path} is empty (0 bytes)")

    header = _header(data)
    if header is None:
        return _decode_strictly(data, path, max_pixels)
    _check_size(header.width, header.height, path, max_pixels)
    if not header.plain:
        return _decode_strictly(data, path, max_pixels)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadInput(f"cannot decode image {path}: {error}") from error
    # OpenCV answers None without a word on most errors: Pillow either knows better or says what is wrong.
    return _decode_strictly(data, path, max_pixels) if image is None else image


def _check_size(width: int, height: int, path: str | os.PathLike[str], max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadInput(
            f"image {path} claims {width} x {height} pixels, more than the {max_pixels / 1e6:.0f} megapixels allowed: "
            "a decompression bomb, or an image to be tiled first"
        )


def _header(data: bytes) -> _Header | None:
    """Size and plainness of a JPEG or PNG; None for other formats and headers that end early."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg_header(data)
        if data.startswith(_PNG_START):
            width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
            return _Header(width, height, (bits, colour) in _PNG_PLAIN and data.rfind(_PNG_END) > 0)
    except (struct.error, IndexError):
        pass  # ends inside the header: the strict decoder words the error
    return None


def _jpeg_header(data: bytes) -> _Header | None:
    """Walk the segments up to the pixel data (ITU T.81, annex B).

    A complete file has an end marker after the pixel data begin; one that lies before belongs to a thumbnail. Inside
    pixel data the marker cannot occur by chance, for 0xFF is followed by a stuffed zero there.
    """
    width = height = components = bits = 0
    at = 2
    while True:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _JPEG_SIZES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
        at += 2 + length
        if marker == 0xDA:  # start of scan
            return _Header(width, height, bits == 8 and components in (1, 3) and data.rfind(b"\xff\xd9", at) > 0)


def _decode_strictly(data: bytes, path: str | os.PathLike[str], max_pixels: int) -> np.ndarray:
    """Pillow's decoder: slower than OpenCV, but it knows every pixel type and refuses truncated data."""
    Image.init()  # once; without it, naming a format whose plugin is not loaded yet is a KeyError
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.width, image.height, path, max_pixels)
            if image.format == "TIFF" and image.getexif().get(_ORIENTATION, 1) != 1:  # Pillow would turn it
                raise BadInput(f"image {path} is a TIFF with an orientation tag: store its pixels upright instead")
            return to_rgb(image, path)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot decode image {path} ({len(data)} bytes): {error}") from error


def to_rgb(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    """A PIL image as `read_image` returns it: (H, W, 3) uint8 RGB, in stored orientation.

    Raises BadInput naming `path` for pixels whose range is undefined.
    """
    if image.mode.startswith("I"):  # 16-bit gray; older Pillow widens it to 32 bits
        gray = np.asarray(image)
        if gray.min() < 0 or gray.max() > 0xFFFF:
            raise BadInput(f"image {path} has 32-bit pixels, whose range is undefined: convert it to 8 or 16 bits")
        return np.repeat((gray >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise BadInput(f"image {path} has floating-point pixels, whose range is undefined: convert it to 8 bits")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB warns where the palette has transparency
    return np.array(image.convert("RGB"))
