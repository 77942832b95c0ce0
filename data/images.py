"""Image files of many formats -> uint8 RGB arrays, with the pixels as stored or upright.

EXIF orientation is ignored unless `exif=True`. COCO boxes and ADE20K masks are in stored pixel coordinates: COCO's JSON
gives the stored width and height, and pycocotools assumes them. Rotating only the images would make the labels wrong.
"""

import io
import os
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from backbones.errors import BadInput
from data.image_header import ERRORS, FORMATS, ImageHeader, as_stored, orientation, read_header

__all__ = ["FORMATS", "IMAGE_SUFFIXES", "MAX_PIXELS", "content_of", "orientation", "read_frames", "read_header",
           "read_image", "read_values", "to_rgb", "upright"]  # fmt: skip

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb: 0.5 GiB as uint8 RGB

# Suffixes, in lower case, of the files in a folder that are taken for images.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jxl"),
)

_PNG_END = b"IEND\xaeB`\x82"
_WITH_FRAMES = ("GIF", "TIFF", "PNG", "WEBP", "AVIF")
_REDUCED_OR_MASK = 1 | 4  # bits of TIFF's tag NewSubfileType, 254

_UNKNOWN = "it is not an image, is cut off, or has a format or pixel layout that is not supported"
_PLUGINS = dict.fromkeys(
    (b"\xff\x0a", b"\0\0\0\x0cJXL "), "JPEG XL needs a plugin of Pillow: python -m pip install pillow-jxl-plugin"
)  # first bytes of a file -> what is missing

Levels = tuple[float, float]


def read_image(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, *, exif: bool = False, levels: Levels | None = None
) -> np.ndarray:
    """The image as (H, W, 3) uint8 RGB. Thread-safe.

    Gray is repeated for the three channels. CMYK and palettes are converted. Alpha is dropped and not composited, as in
    the loaders of torchvision and timm, so that published accuracies are reproduced. Of an animation the first frame is
    read. The content determines the format; the suffix of the file does not.

    Args:
        path: the file.
        max_pixels: largest number of pixels, at most `MAX_PIXELS`. The size is read from the header, before memory is
            allocated.
        exif: turn the image upright by its EXIF orientation; otherwise the pixels are returned as they are stored.
        levels: (low, high), the stored values that become 0 and 255, for files with more than 8 bits. Values between
            are mapped linearly and rounded, others are clipped. By default the high byte of 16 bits is used. Files with
            8 bits are not changed.

    Raises `BadInput` with the file's name if the file is missing, empty, truncated, not an image, too large, or has
    pixels whose range is undefined.
    """
    data = content_of(path)
    return _read(data, _header(data), path, max_pixels, exif, levels)


def decode_image(
    data: bytes,
    name: str | os.PathLike[str],
    *,
    exif: bool = False,
    levels: Levels | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """As `read_image`, from the content of a file. `name` is for messages."""
    if not data:
        raise BadInput(f"image {name} is empty (0 bytes)")
    return _read(data, _header(data), name, max_pixels, exif, levels)


def decode_values(data: bytes, name: str | os.PathLike[str]) -> np.ndarray:
    """As `read_values`, from the content of a file. `name` is for messages."""
    header = _header(data)
    if header is None or header.bits <= 8:
        return _decode(data, header, name, MAX_PIXELS)
    return _values(data, header, name, MAX_PIXELS)


def read_frames(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, *, exif: bool = False, levels: Levels | None = None
) -> Iterator[np.ndarray]:
    """The frames of an animation or the pages of a TIFF, one at a time, each as `read_image` reads the first.

    Frames of an animation are complete pictures. Pages that are masks or smaller copies of others are left out. A file
    with a single image has one frame. The arguments and the raised errors are those of `read_image`.
    """
    data = content_of(path)
    header = _header(data)
    if header is None or header.kind not in _WITH_FRAMES:
        yield _read(data, header, path, max_pixels, exif, levels)
        return
    stored = as_stored(data, orientation=not exif)  # Pillow turns each page of a TIFF by the page's own tag
    turn = header.orientation if exif and header.kind != "TIFF" else 1
    try:
        with Image.open(io.BytesIO(stored), formats=FORMATS) as image:
            if getattr(image, "n_frames", 1) == 1:
                yield _read(data, header, path, max_pixels, exif, levels)
                return
            for number, frame in enumerate(ImageSequence.Iterator(image)):
                if header.kind == "TIFF" and frame.tag_v2.get(254, 0) & _REDUCED_OR_MASK:  # type: ignore[attr-defined]
                    continue
                _check_size(*frame.size, path, max_pixels)
                if levels is not None and header.bits > 8:
                    rgb = _scaled(_frame_values(frame, stored, number, path), levels)
                else:
                    rgb = to_rgb(frame, path)
                yield upright(rgb, turn)
    except ERRORS as error:
        raise _undecodable(path, data, error) from error


def read_values(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The values of an image as they are stored, without alpha: (H, W, 3) RGB, or (H, W, 1) gray with more than 8 bits.

    uint8 for up to 8 bits, uint16 for values in 0..65535, else int32 or float32. Pixels are in stored orientation. The
    raised errors are those of `read_image`, except that any range is read.
    """
    data = content_of(path)
    header = _header(data)
    if header is None or header.bits <= 8:
        return _decode(data, header, path, max_pixels)
    return _values(data, header, path, max_pixels)


def upright(image: np.ndarray, tag: int) -> np.ndarray:
    """The image, (H, W) or (H, W, C), turned upright by EXIF's orientation `tag`: (W, H) and (W, H, C) for tags 5 to 8.

    Tag 2 mirrors, 3 turns by 180 degrees, 4 mirrors top to bottom, 5 transposes, 6 turns clockwise by 90 degrees, 7
    transposes along the other diagonal, 8 turns counter-clockwise by 90 degrees. Other values leave the image as it is.
    The pixel type is one of OpenCV's: uint8, uint16, int16, int32, float32 or float64.
    """
    if image.ndim == 3 and image.shape[2] != 3:  # OpenCV drops a single channel, and does not take all numbers of them
        image = image.swapaxes(0, 1) if tag in (5, 6, 7, 8) else image
        axes = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(tag, ())
        return np.ascontiguousarray(np.flip(image, axes))
    if tag in (5, 6, 7, 8):
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(tag)
    return image if flip is None else cv2.flip(image, flip)


def to_rgb(image: Image.Image, path: str | os.PathLike[str], levels: Levels | None = None) -> np.ndarray:
    """A PIL image as (H, W, 3) uint8 RGB, with the conversions of `read_image`, in the orientation that Pillow loads.

    `levels` apply to gray images with more than 8 bits. Pillow has reduced colour images to 8 bits.

    Raises BadInput with `path` for pixels whose range is undefined.
    """
    if levels is not None and image.mode[0] in "IF":
        return _scaled(_gray_values(image), levels)
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


def content_of(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file. Raises BadInput if it is missing or empty."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read image {path}: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise BadInput(f"image {path} is empty (0 bytes)")
    return data


def check_pixels(data: bytes, name: str | os.PathLike[str], max_pixels: int) -> None:
    """Raise BadInput if the header of an image file with this content states more than `max_pixels` pixels."""
    if (header := _header(data)) is not None:
        _check_size(header.width, header.height, name, max_pixels)


def _header(data: bytes) -> ImageHeader | None:
    try:
        return read_header(data)
    except BadInput:
        return None  # Pillow names the reason


def _read(
    data: bytes,
    header: ImageHeader | None,
    path: str | os.PathLike[str],
    max_pixels: int,
    exif: bool,
    levels: Levels | None,
) -> np.ndarray:
    if levels is not None and header is not None and header.bits > 8:
        image = _scaled(_values(data, header, path, max_pixels), levels)
    else:
        image = _decode(data, header, path, max_pixels)
    return upright(image, header.orientation) if exif and header is not None else image


def _values(data: bytes, header: ImageHeader, path: str | os.PathLike[str], max_pixels: int) -> np.ndarray:
    """(H, W, 1 or 3) values as stored, of a file with more than 8 bits."""
    _check_size(header.width, header.height, path, max_pixels)
    stored = as_stored(data)
    try:
        with Image.open(io.BytesIO(stored), formats=FORMATS) as image:
            return _frame_values(image, stored, 0, path)
    except ERRORS as error:
        raise _undecodable(path, data, error) from error


def _frame_values(image: Image.Image, data: bytes, number: int, path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W, 1 or 3) values of the current frame, the `number`th of the file with content `data`.

    Pillow reduces 16-bit colour to 8 bits. It is decoded a second time with OpenCV, which does not report truncation.
    """
    image.load()
    if image.mode[0] in "IF":
        return _gray_values(image)
    coded = np.frombuffer(data, np.uint8)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    if image.format == "TIFF":
        pages = cv2.imdecodemulti(coded, flags, range=(number, number + 1))[1]
        values = pages[0] if pages else None
    else:
        values = cv2.imdecode(coded, flags) if number == 0 else None
    if values is None or values.dtype != np.uint16 or image.mode == "CMYK":
        raise BadInput(f"image {path} has 16-bit pixels in a layout that cannot be read ({image.format} {image.mode})")
    return values[..., ::-1]  # OpenCV's order is blue, green, red


def _gray_values(image: Image.Image) -> np.ndarray:
    """(H, W, 1) values of a PIL image of mode I or F: uint16 if they fit, else int32 or float32."""
    gray = np.asarray(image)[..., None]
    fits = gray.dtype.kind in "iu" and gray.min() >= 0 and gray.max() <= 0xFFFF
    return gray.astype(np.uint16) if fits else gray


def _scaled(values: np.ndarray, levels: Levels) -> np.ndarray:
    """(H, W, 1 or 3) stored values -> (H, W, 3) uint8, with `levels` at 0 and 255. NaN becomes 0."""
    low, high = levels
    if not low < high:
        raise ValueError(f"levels must increase, not {levels}")
    source = np.arange(0x10000) if values.dtype == np.uint16 else values
    scaled = np.clip((source.astype(np.float64) - low) * 255 / (high - low), 0, 255)
    image = np.nan_to_num(scaled, copy=False).round().astype(np.uint8)
    image = image[values] if values.dtype == np.uint16 else image
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.ascontiguousarray(image)


def _check_size(width: int, height: int, path: str | os.PathLike[str], max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadInput(
            f"the header of image {path} says {width} x {height} pixels, more than the limit of "
            f"{max_pixels / 1e6:.0f} megapixels. Cut the image into tiles."
        )


def _decode(data: bytes, header: ImageHeader | None, path: str | os.PathLike[str], max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB, in stored orientation."""
    image = None
    if header is not None:
        _check_size(header.width, header.height, path, max_pixels)
        if is_plain(data, header):
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            try:
                image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            except cv2.error as error:
                raise BadInput(f"cannot decode image {path}: {error}") from error
    # On most errors OpenCV returns None without a reason. Pillow decodes the image or names the reason.
    return _decode_strictly(data, path, max_pixels) if image is None else image


def is_plain(data: bytes, header: ImageHeader) -> bool:
    """Whether a JPEG or PNG is complete, has 8 bits, and is gray or RGB(A).

    Plain images can be decoded with OpenCV, which does not report truncated data. A complete JPEG has an end marker
    after the start of the pixel data. An earlier end marker belongs to a thumbnail. Within pixel data the marker cannot
    occur by chance, because each 0xFF there is followed by a zero byte.
    """
    if header.bits != 8:
        return False
    if header.kind == "JPEG":
        return header.bands in (1, 3) and data.rfind(b"\xff\xd9", header.start) > 0
    return header.kind == "PNG" and data[25] in (0, 2, 6) and data.rfind(_PNG_END) > 0  # gray, RGB, RGBA


def _decode_strictly(data: bytes, path: str | os.PathLike[str], max_pixels: int) -> np.ndarray:
    """Decode with Pillow. It is slower than OpenCV, but supports all pixel types and refuses truncated data."""
    try:
        with Image.open(io.BytesIO(as_stored(data)), formats=FORMATS) as image:
            _check_size(image.width, image.height, path, max_pixels)
            return to_rgb(image, path)
    except ERRORS as error:
        raise _undecodable(path, data, error) from error


def _undecodable(path: str | os.PathLike[str], data: bytes, error: BaseException) -> BadInput:
    reason = str(error)
    if isinstance(error, UnidentifiedImageError):  # Pillow's message shows the address of a Python object
        header = _header(data)  # only of a TIFF that Pillow does not support
        if header is not None:
            return BadInput(
                f"cannot decode image {path} ({len(data)} bytes): it is a TIFF with {header.bands} bands of "
                f"{header.bits} bits, which is no RGB image. To train on its bands, pass `channels={header.bands}`",
                settings=("data.channels",),
            )
        reason = next((text for start, text in _PLUGINS.items() if data.startswith(start)), _UNKNOWN)
    return BadInput(f"cannot decode image {path} ({len(data)} bytes): {reason}")
