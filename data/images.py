"""Image files of many formats -> uint8 RGB arrays, in the orientation in which the pixels are stored.

EXIF orientation is ignored everywhere. COCO boxes and ADE20K masks are in stored pixel coordinates: COCO's JSON gives
the stored width and height, and pycocotools assumes them. Rotating only the images would make the labels wrong.
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

# Only formats that Pillow decodes within the process. For EPS, for example, it starts an external interpreter.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")

_ORIENTATION = 0x0112  # EXIF and TIFF tag
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_PLAIN = {(8, 0), (8, 2), (8, 6)}  # (bit depth, colour type): gray, RGB, RGBA
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC


class _Header(NamedTuple):
    """Size in pixels, and whether the image is `plain`: complete, 8 bits, gray or RGB(A).

    Plain images can be decoded with OpenCV, which does not report truncated data.
    """

    width: int
    height: int
    plain: bool


def read_image(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB, in stored orientation. Thread-safe.

    Gray is repeated for the three channels. CMYK and palettes are converted. Of 16 bits the high byte is used. Alpha is
    dropped and not composited, as in the loaders of torchvision and timm, so that published accuracies are reproduced.
    Of an animation the first frame is read. The content determines the format; the suffix of the file does not.

    Raises `BadInput` with the file's name if the file is missing, empty, truncated, not an image, or has more than
    `max_pixels` pixels (at most `MAX_PIXELS`). The size is read from the header, before memory is allocated.
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
    # On most errors OpenCV returns None without a reason. Pillow decodes the image or names the reason.
    return _decode_strictly(data, path, max_pixels) if image is None else image


def _check_size(width: int, height: int, path: str | os.PathLike[str], max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadInput(
            f"the header of image {path} says {width} x {height} pixels, more than the limit of "
            f"{max_pixels / 1e6:.0f} megapixels. Cut the image into tiles."
        )


def _header(data: bytes) -> _Header | None:
    """The header of a JPEG or PNG. None for other formats and truncated headers."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg_header(data)
        if data.startswith(_PNG_START):
            width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
            return _Header(width, height, (bits, colour) in _PNG_PLAIN and data.rfind(_PNG_END) > 0)
    except (struct.error, IndexError):
        pass  # truncated: Pillow reports the error
    return None


def _jpeg_header(data: bytes) -> _Header | None:
    """Read the segments before the pixel data (ITU T.81, annex B).

    A complete file has an end marker after the start of the pixel data. An earlier end marker belongs to a thumbnail.
    Within pixel data the marker cannot occur by chance, because each 0xFF there is followed by a zero byte.
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
    """Decode with Pillow. It is slower than OpenCV, but supports all pixel types and refuses truncated data."""
    Image.init()  # loads the plugins once; `Image.open` raises KeyError for a format whose plugin is not loaded
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.width, image.height, path, max_pixels)
            if image.format == "TIFF" and image.getexif().get(_ORIENTATION, 1) != 1:  # Pillow would rotate it
                raise BadInput(f"image {path} is a TIFF with an orientation tag: store its pixels upright instead")
            return to_rgb(image, path)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot decode image {path} ({len(data)} bytes): {error}") from error


def to_rgb(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    """A PIL image as (H, W, 3) uint8 RGB, in stored orientation, with the conversions of `read_image`.

    Raises BadInput with `path` for pixels whose range is undefined.
    """
    if image.mode.startswith("I"):  # 16-bit gray, which older versions of Pillow convert to 32 bits
        gray = np.asarray(image)
        if gray.min() < 0 or gray.max() > 0xFFFF:
            raise BadInput(f"image {path} has 32-bit pixels, whose range is undefined: convert it to 8 or 16 bits")
        return np.repeat((gray >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise BadInput(f"image {path} has floating-point pixels, whose range is undefined: convert it to 8 bits")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # converting to RGB directly causes a warning if the palette has transparency
    return np.array(image.convert("RGB"))
