"""Images of 1 to 16 channels with all their bits, and pictures of them that a screen can show."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from backbones.errors import BadInput
from data.image_header import ERRORS, FORMATS, TIFF_STARTS, read_header
from data.images import MAX_PIXELS
from data.tiff import Pixels, read_tiff

MOST_CHANNELS = 16
MAX_BYTES = 3 * MAX_PIXELS  # the limit of 8-bit RGB images, in bytes
DISPLAYED = 2.0, 98.0  # percentiles of the values that become black and white in a picture


def decode_bands(
    data: bytes, name: str | os.PathLike[str], count: int, bands: Sequence[int] | None = None
) -> np.ndarray:
    """An image file as (H, W, count) uint8, uint16 or float32, with the values and the orientation that it stores.

    Whole numbers of up to 8 bits are uint8, of up to 16 bits uint16. Numbers with a sign, with 32 bits and with a
    floating point are float32, with NaN where GDAL's tag declares that there is no value. CMYK and palettes are
    converted to RGB, except in TIFF files, where a palette is an error.

    Args:
        data: content of the file.
        name: of the file, for messages.
        count: number of channels. A file has as many bands, or as many and alpha, which is dropped.
        bands: bands of the file to read, counted from 1, alpha included; they are the channels in this order.

    Raises BadInput if the file cannot be decoded, is too large, or has other numbers of bands.
    """
    if not data:
        raise BadInput(f"image {name} is empty (0 bytes)")
    values, alpha = read_tiff(data, name, MAX_BYTES) if data.startswith(TIFF_STARTS) else _by_pillow(data, name)
    stored = values.shape[2]
    if bands is None:
        if count not in (stored, stored - alpha):
            raise _wrong_count(name, stored, alpha, count)
        return np.ascontiguousarray(values[..., :count])
    if max(bands) > stored:
        raise BadInput(
            f"image {name} has {_bands(stored)}, so there is no band {max(bands)}, which `bands` names",
            settings=("data.bands",),
        )
    return np.ascontiguousarray(values[..., [band - 1 for band in bands]])


def displayable(image: np.ndarray) -> np.ndarray:
    """(H, W, C) of any type -> (H, W, 3) uint8 RGB. 8-bit images of three channels are returned as they are.

    Of other images the first three channels are red, green and blue; with fewer channels, the first is gray. Each is
    stretched from its 2nd to its 98th percentile. Pixels without a value are black.
    """
    if image.dtype == np.uint8 and image.shape[2:] == (3,):
        return image
    channels = image[..., :3] if image.shape[2] >= 3 else np.repeat(image[..., :1], 3, axis=2)
    values = channels.astype(np.float32)
    values[~np.isfinite(values)] = np.nan
    picture = np.zeros(values.shape, np.uint8)
    for channel in range(3):
        known = ~np.isnan(values[..., channel])
        if not known.any():
            continue
        low, high = np.percentile(values[..., channel][known], DISPLAYED)
        scaled = (values[..., channel][known] - low) * (255 / (high - low) if high > low else 0.0)
        picture[..., channel][known] = np.clip(scaled, 0, 255).round()
    return picture


def _by_pillow(data: bytes, name: str | os.PathLike[str]) -> Pixels:
    """The pixels of a file that is no TIFF. Pillow refuses truncated data; OpenCV keeps 16 bits of colour images."""
    try:
        header = read_header(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            size = image.width * image.height * len(image.getbands()) * (2 if header.bits > 8 else 1)
            if size > MAX_BYTES:
                raise BadInput(
                    f"the header of image {name} says {image.width} x {image.height} pixels, more than the limit of "
                    f"{MAX_BYTES / 2**20:.0f} MiB. Cut the image into tiles."
                )
            image.load()
            if header.bits > 8:
                return _deep(data, name)
            mode = image.mode
            if mode in ("P", "PA"):
                mode = "RGBA" if "transparency" in image.info or mode == "PA" else "RGB"
            elif mode not in ("L", "LA", "RGB", "RGBA"):
                mode = "L" if mode == "1" else "RGB"
            pixels = np.array(image.convert(mode))
            return Pixels(pixels if pixels.ndim == 3 else pixels[..., None], int(mode in ("LA", "RGBA")))
    except BadInput as error:
        raise BadInput(str(error).replace(f"image of {len(data)} bytes", f"image {name}")) from error
    except ERRORS as error:
        raise BadInput(f"cannot decode image {name} ({len(data)} bytes): {error}") from error


def _deep(data: bytes, name: str | os.PathLike[str]) -> Pixels:
    """The pixels of a file with 16 bits."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise BadInput(f"image {name} has more than 8 bits in a layout that cannot be read: convert it to TIFF")
    if values.ndim == 2:
        return Pixels(values[..., None])
    order = [2, 1, 0, 3][: values.shape[2]]  # OpenCV's order is blue, green, red, alpha
    return Pixels(values[..., order], int(len(order) == 4))


def _bands(count: int) -> str:
    return f"{count} band{'' if count == 1 else 's'}"


def _wrong_count(name: str | os.PathLike[str], stored: int, alpha: int, count: int) -> BadInput:
    of_them = f" ({alpha} of them alpha)" if alpha else ""
    choose = (
        f", or choose some with `bands`, such as `bands={list(range(1, min(stored, 3) + 1))}`" if stored > 1 else ""
    )
    return BadInput(
        f"image {name} has {_bands(stored)}{of_them}, not {count}: pass `channels={min(stored, MOST_CHANNELS)}` if all "
        f"images have as many{choose}",
        settings=("data.channels", "data.bands"),
    )
