"""Size, orientation and pixel type of an image file, read from its head without decoding pixels."""

from __future__ import annotations

import io
import mmap
import os
import struct
import zlib
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from backbones.errors import BadInput

with suppress(ImportError):
    import pillow_jxl  # noqa: F401 - registers JPEG XL with Pillow, where pillow-jxl-plugin is installed
Image.init()  # loads the plugins once; `Image.open` raises KeyError for a format whose plugin is not loaded

# Only formats that Pillow decodes within the process. For EPS, for example, it starts an external interpreter.
FORMATS = tuple(
    name for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JXL") if name in Image.OPEN
)
PNG_START = b"\x89PNG\r\n\x1a\n"
# What Pillow and its plugins raise for damaged files.
ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, RuntimeError),
    *(struct.error, Image.DecompressionBombError),
)

ORIENTATION, _EXTRA_SAMPLES = 0x0112, 338  # EXIF and TIFF tags
_WIDTH, _HEIGHT, _BITS, _SAMPLES = 256, 257, 258, 277  # TIFF tags
_SIZES = _WIDTH, _HEIGHT, _BITS, _SAMPLES, ORIENTATION
_SHORT, _LONG = 3, 4  # types of a tag's values
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_PAGES = 65_536  # pages of a TIFF; a chain of more is a loop
_TAIL = 65_536  # bytes at the end of a PNG in which an eXIf chunk after the pixels is searched


class ImageHeader(NamedTuple):
    """What the head of an image file states.

    Attributes:
        width, height: px, of the pixels as they are stored.
        orientation: EXIF's tag, 1 to 8: how to turn the stored pixels so that the image is upright. 1 without a tag and
            for a damaged one. AVIF's own rotation is expressed as that tag.
        bits: bits of each stored sample, such as 8 or 16.
        bands: stored samples of each pixel: 1 gray or palette, 2 gray and alpha, 3 RGB, 4 RGBA or CMYK.
        kind: Pillow's name of the format, such as "JPEG".
        start: offset of the pixel data in a JPEG, else 0.
    """

    width: int
    height: int
    orientation: int
    bits: int
    bands: int
    kind: str
    start: int = 0


def read_header(source: bytes | str | os.PathLike[str]) -> ImageHeader:
    """The header of an image file, from its path or its content. Thread-safe.

    Of most formats only the bytes before the pixels are read, in about 10 us (JPEG), 30 us (PNG) or 100 us (TIFF).

    Raises BadInput with the file's name if it is missing or not an image.
    """
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else f"image {os.fspath(source)}"
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            return _known(file) or _by_pillow(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition(" <")[0]
        raise BadInput(f"cannot read the header of {name}: {reason}") from error
    except ERRORS as error:
        raise BadInput(f"cannot read the header of {name}: {error}") from error


def orientation(data: bytes) -> int:
    """EXIF's orientation, 1 to 8, of the image file with this content. 1 for a damaged tag and a damaged file."""
    try:
        return read_header(data).orientation
    except BadInput:
        return 1


def _known(file: BinaryIO) -> ImageHeader | None:
    """The header of a JPEG, PNG or WebP. None for other formats and for truncated headers."""
    start = file.read(16)
    with suppress(struct.error, IndexError):
        if start.startswith(b"\xff\xd8"):
            return _jpeg(file)
        if start.startswith(PNG_START) and start[12:16] == b"IHDR":
            return _png(file)
        if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
            return _webp(file)
    return None


def _jpeg(file: BinaryIO) -> ImageHeader | None:
    """Read the segments before the pixel data (ITU T.81, annex B)."""
    width = height = bits = bands = 0
    turn = None
    position = 2
    while True:
        file.seek(position)
        start, marker, length = struct.unpack(">BBH", file.read(4))
        if start != 0xFF:
            return None
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _JPEG_SIZES:
            bits, height, width, bands = struct.unpack(">BHHB", file.read(6))
        elif marker == 0xE1 and turn is None and (body := file.read(length - 2)).startswith(b"Exif\0"):
            turn = exif_orientation(body)
        position += 2 + length
        if marker == 0xDA:  # start of scan
            return ImageHeader(width, height, turn or 1, bits, bands, "JPEG", position)


def _png(file: BinaryIO) -> ImageHeader:
    """Read the chunks before the pixel data, and the end of the file, since ExifTool writes eXIf after the pixels."""
    width, height, bits, colour = struct.unpack(">IIBB", file.read(10))
    turn, position = None, 33
    while turn is None:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"eXIf":
            turn = exif_orientation(file.read(length))
        if kind in (b"IDAT", b"IEND"):
            break
        position += 12 + length
    if turn is None:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(position, end - _TAIL))
        tail = file.read()
        found = tail.rfind(b"eXIf")
        if found >= 4:
            (length,) = struct.unpack_from(">I", tail, found - 4)
            body, check = tail[found : found + 4 + length], tail[found + 4 + length : found + 8 + length]
            if check == struct.pack(">I", zlib.crc32(body)):  # otherwise the letters occur in the pixels by chance
                turn = exif_orientation(body[4:])
    return ImageHeader(width, height, turn or 1, bits, {2: 3, 4: 2, 6: 4}.get(colour, 1), "PNG")


def _webp(file: BinaryIO) -> ImageHeader | None:
    """Read the size of any WebP, and the EXIF chunk of an extended one (RFC 9649)."""
    file.seek(12)
    head = file.read(18)
    if head.startswith(b"VP8L") and head[8] == 0x2F:
        (packed,) = struct.unpack_from("<I", head, 9)
        return ImageHeader((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, 1, 8, 3 + (packed >> 28 & 1), "WEBP")
    if head.startswith(b"VP8X"):
        width, height = (1 + int.from_bytes(head[i : i + 3], "little") for i in (12, 15))
        flags, turn, position = head[8], 1, 30
        while flags & 8:  # has EXIF
            file.seek(position)
            chunk = file.read(8)
            if len(chunk) < 8:
                break
            kind, length = struct.unpack("<4sI", chunk)
            if kind == b"EXIF":
                turn = exif_orientation(file.read(length))
                break
            position += 8 + length + length % 2
        return ImageHeader(width, height, turn, 8, 4 if flags & 16 else 3, "WEBP")
    if head.startswith(b"VP8 ") and head[11:14] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 14)
        return ImageHeader(width & 0x3FFF, height & 0x3FFF, 1, 8, 3, "WEBP")
    return None


def _by_pillow(file: BinaryIO) -> ImageHeader:
    file.seek(0)
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:  # also a TIFF whose bands and types Pillow does not have
        if isinstance(file, io.BytesIO):
            found = _tiff(file.getvalue())
        else:
            found = _tiff(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if found is None:
            raise
        return found
    with image:
        width, height = image.size
        bits = {"1": 1, "I": 32, "F": 32}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
        bands, turn = len(image.getbands()), 1
        if image.format == "TIFF":
            tags = image.tag_v2  # type: ignore[attr-defined]
            width, height, bits, bands = tags[256], tags[257], max(tags.get(258, (1,))), tags.get(277, 1)
            turn = tags.get(ORIENTATION, 1)
        elif image.format != "JXL":  # which is decoded upright
            turn = image.getexif().get(ORIENTATION, 1)
        if image.format == "PPM" and image.mode == "I":
            bits = 16  # Pillow scales to 0..65535
        return ImageHeader(width, height, turn if turn in range(1, 9) else 1, bits, bands, image.format or "")


def _tiff(data: bytes | mmap.mmap) -> ImageHeader | None:
    """The header of the first page of a TIFF; None if it is none, or has no size."""
    values = {tag: value for tag, _, value in reversed(_short_tags(data, 1, _SIZES))}
    if not values.get(_WIDTH) or not values.get(_HEIGHT):
        return None
    turn = values.get(ORIENTATION, 1)
    return ImageHeader(
        values[_WIDTH], values[_HEIGHT], turn if turn in range(1, 9) else 1, values.get(_BITS, 1),
        values.get(_SAMPLES, 1), "TIFF",
    )  # fmt: skip


def exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, with or without its prefix "Exif": 1 to 8, and 1 for a damaged block."""
    start = 6 if exif.startswith(b"Exif\0") else 0
    found = [value for tag, _, value in _short_tags(exif[start:], pages=1) if tag == ORIENTATION]
    return found[0] if found and 1 <= found[0] <= 8 else 1


def as_stored(data: bytes, orientation: bool = True) -> bytes:
    """The file with a TIFF's tags changed so that decoders return the pixels as they are stored.

    Pillow and OpenCV apply the orientation of a TIFF on their own, unless `orientation` removes it, and Pillow divides
    by a premultiplied alpha. What a tool declares as alpha is often another band, such as infrared.
    """
    order = "<" if data.startswith(b"II") else ">"
    changes = [
        (offset, 1 if tag == ORIENTATION else 0)
        for tag, offset, value in _short_tags(data, pages=_PAGES)
        if (tag == ORIENTATION and orientation and value != 1) or (tag == _EXTRA_SAMPLES and value == 1)
    ]
    if not changes:
        return data
    changed = bytearray(data)
    for offset, value in changes:
        struct.pack_into(f"{order}H", changed, offset, value)
    return bytes(changed)


def _short_tags(
    tiff: bytes | mmap.mmap, pages: int, wanted: tuple[int, ...] = (ORIENTATION, _EXTRA_SAMPLES)
) -> list[tuple[int, int, int]]:
    """Tag, offset and first value of the wanted tags of each page (TIFF 6.0, section 2; BigTIFF).

    Their values are of 16 bits; width and height may have 32.
    """
    if tiff[:4] not in TIFF_STARTS:
        return []
    order, big = "<" if tiff[:2] == b"II" else ">", tiff[2:4] in (b"+\0", b"\0+")
    word, count_word, entry_size = ("Q", "Q", 20) if big else ("I", "H", 12)
    found = []
    with suppress(struct.error, OverflowError):  # damaged: what was read before counts
        (offset,) = struct.unpack_from(order + word, tiff, 8 if big else 4)
        while offset and pages:
            (count,) = struct.unpack_from(order + count_word, tiff, offset)
            first = offset + struct.calcsize(count_word)
            for entry in range(first, first + count * entry_size, entry_size):
                tag, kind = struct.unpack_from(f"{order}HH", tiff, entry)
                if tag in wanted and (kind == _SHORT or (kind == _LONG and tag in (_WIDTH, _HEIGHT))):
                    form = "H" if kind == _SHORT else "I"
                    at = entry + entry_size - struct.calcsize(word)
                    (number,) = struct.unpack_from(order + word, tiff, entry + 4)
                    if struct.calcsize(form) * number > struct.calcsize(word):  # they do not fit the entry
                        (at,) = struct.unpack_from(order + word, tiff, at)
                    found.append((tag, at, struct.unpack_from(order + form, tiff, at)[0]))
            (offset,) = struct.unpack_from(order + word, tiff, first + count * entry_size)
            pages -= 1
    return found
