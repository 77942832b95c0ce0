"""The channels of images other than 8-bit RGB: which bands they are, their values, and their normalisation.

Values are normalised in two steps. First a range of stored values becomes 0 to 1: 0 to 255 for 8 bits, 0 to 65535 for
16 bits, and for all other numbers a given range or that of the training images. Then each channel is normalised with a
mean and a standard deviation, which are given or measured in the training images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from backbones.errors import BadInput, UserError
from data.bands import MOST_CHANNELS, decode_bands
from data.batch import normalise
from data.images import content_of, orientation, upright

FULL = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}  # range of values by type


@dataclass(frozen=True)
class Channels:
    """How images are read and normalised.

    Attributes:
        count: number of channels.
        bands: bands of the files, counted from 1, in the order of the channels; None for all bands of the files.
        dtype: type of the values, "uint8", "uint16" or "float32"; None before it is known.
        limits: the stored values that become 0 and 1; values beyond them are clipped; None before they are known.
        mean, std: of each channel, for values in 0..1; empty before they are known.
    """

    count: int
    bands: tuple[int, ...] | None = None
    dtype: str | None = None
    limits: tuple[float, float] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, settings: Any) -> Self | None:
        """The channels that the settings of a training or of an evaluation name; None for 8-bit RGB.

        Raises UserError for values out of range and for settings that contradict each other.
        """
        count, bands = getattr(settings, "channels", None), getattr(settings, "bands", None)
        mean, std, limits = (getattr(settings, name, None) for name in ("mean", "std", "range"))
        if count is None and bands is None:
            given = [name for name, value in (("mean", mean), ("std", std), ("range", limits)) if value is not None]
            if given:
                message = "needs `channels` or `bands`: RGB images are normalised as the weights expect"
                raise _wrong(f"`{given[0]}` {message}", given[0], "channels", "bands")
            return None
        if bands is not None and (not bands or min(bands) < 1):
            raise _wrong(f"`bands={list(bands)}`: bands are counted from 1", "bands")
        if count is not None and bands is not None and count != len(bands):
            raise _wrong(f"`channels={count}` contradicts the {len(bands)} numbers of `bands`: leave it out",
                         "channels", "bands")  # fmt: skip
        if count is None:
            count = len(bands or ())
        if not 1 <= count <= MOST_CHANNELS:
            raise _wrong(f"`channels={count}` must be from 1 to {MOST_CHANNELS}", "channels")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != count:
                raise _wrong(f"`{name}` has {len(values)} numbers, but there are {count} channels", name)
        if (mean is None) != (std is None):
            raise _wrong("`mean` and `std` belong together: pass both or neither", "mean", "std")
        if std is not None and not min(std) > 0:
            raise _wrong(f"`std={list(std)}` must be positive", "std")
        if limits is not None and not (len(limits) == 2 and limits[0] < limits[1]):
            raise _wrong(f"`range={list(limits)}` must be two numbers, the smaller first", "range")
        return cls(
            count,
            None if bands is None else tuple(bands),
            None,
            None if limits is None else (float(limits[0]), float(limits[1])),
            tuple(map(float, mean or ())),
            tuple(map(float, std or ())),
        )

    @classmethod
    def stored(cls, preprocessing: Mapping[str, Any]) -> Self | None:
        """The channels of a run, from its preprocessing; None for 8-bit RGB."""
        values = preprocessing.get("channels")
        if values is None:
            return None
        low, high = values["range"]
        bands = None if values["bands"] is None else tuple(values["bands"])
        mean, std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
        return cls(values["count"], bands, values["dtype"], (low, high), mean, std)

    def preprocessing(self) -> dict[str, Any]:
        """The entries of a run's preprocessing, see `stored`."""
        assert self.limits is not None
        bands = None if self.bands is None else list(self.bands)
        channels = {"count": self.count, "bands": bands, "dtype": self.dtype, "range": list(self.limits)}
        return {"mean": list(self.mean), "std": list(self.std), "channels": channels}

    @classmethod
    def to_score(cls, preprocessing: Mapping[str, Any], settings: Any) -> Self | None:
        """The channels of a run, with the bands of the files that `settings` name.

        Raises UserError for another number of channels than that of the run.
        """
        own, bands = cls.stored(preprocessing), settings.bands
        counts = {count for count in (settings.channels, len(bands or ())) if count}
        if wrong := counts - {0 if own is None else own.count}:
            trained_on = "8-bit RGB" if own is None else f"{own.count} channels"
            message = f"the network was trained on images of {trained_on}, not of {min(wrong)} channels"
            raise _wrong(f"{message}: leave out `channels` and `bands`, or name as many", "channels", "bands")
        return own if own is None or bands is None else replace(own, bands=tuple(bands))

    def decode(self, data: bytes, name: str | os.PathLike[str]) -> np.ndarray:
        """An image file as (H, W, count), in stored orientation, see `data.bands.decode_bands`.

        Raises BadInput as that does, and for another type of values than `dtype`.
        """
        return self.checked(decode_bands(data, name, self.count, self.bands), name)

    def read(self, path: str | os.PathLike[str], *, exif: bool = False) -> np.ndarray:
        """The same for the file at `path`, turned upright by its EXIF orientation if `exif`."""
        data = content_of(path)
        return upright(self.decode(data, path), orientation(data) if exif else 1)

    def checked(self, image: np.ndarray, name: str | os.PathLike[str]) -> np.ndarray:
        """The image (H, W, count) with values within `limits`. Pixels without a value have the channel's mean.

        Raises BadInput for another type of values than `dtype`.
        """
        if self.dtype is None:
            return image
        if image.dtype != self.dtype:
            raise BadInput(
                f"image {name} has values of type {image.dtype}, but the training images are {self.dtype}: convert it"
            )
        assert self.limits is not None
        low, high = self.limits
        if image.dtype == np.float32 and not np.isfinite(image).all():
            image = np.where(np.isfinite(image), image, np.array(self.fill, np.float32))
        return image if self.limits == FULL.get(self.dtype) else np.clip(image, *_as(image.dtype, low, high))

    def __str__(self) -> str:
        """The type, range and normalisation of the values, for people."""
        low, high = self.limits or (0, 1)
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        names = "" if self.bands is None else f" (bands {', '.join(map(str, self.bands))})"
        return f"{self.count} channels{names} of {self.dtype}, {low:g} to {high:g} as 0 to 1: mean {mean}; std {std}"

    @property
    def fill(self) -> tuple[float, ...]:
        """The stored value of each channel that is zero in the network's input, up to rounding."""
        assert self.limits is not None
        low, high = self.limits
        values = [low + mean * (high - low) for mean in self.mean]
        return tuple(values) if self.dtype == "float32" else tuple(round(value) for value in values)

    def blank(self, height: int, width: int) -> np.ndarray:
        """An image (height, width, count) of zeros."""
        return np.zeros((height, width, self.count), self.dtype or np.uint8)


def normalised(images: Tensor, preprocessing: Mapping[str, Any]) -> Tensor:
    """(B, C, H, W) of stored values -> float32, by the preprocessing of a run, see `data.batch.normalise`."""
    limits = tuple(preprocessing["channels"]["range"]) if "channels" in preprocessing else (0, 255)
    return normalise(images, preprocessing["mean"], preprocessing["std"], limits)


def measured(channels: Channels, images: Iterator[np.ndarray] | Sequence[np.ndarray], source: object) -> Channels:
    """The channels with all values that are not given, measured in the training images.

    Mean and standard deviation are those of all pixels with a value, in float64, each image counting by its pixels.

    Args:
        channels: as the settings name them.
        images: (H, W, count) each, as `Channels.decode` returns them. Only the first is used where all is given.
        source: of the images, for messages.

    Raises BadInput for images of several types, for a channel without any difference, and without any image.
    """
    sums = _Sums(channels)
    for image in images:
        sums.add(image, source)
        if channels.mean and (channels.limits or sums.dtype in FULL):
            break
    return sums.result(source)


class _Sums:
    """Running statistics of each channel, on the scale of stored values."""

    def __init__(self, channels: Channels) -> None:
        self.channels, self.dtype = channels, ""
        self.count = np.zeros(channels.count)
        self.mean, self.squares = np.zeros(channels.count), np.zeros(channels.count)  # squares: of deviations
        self.low, self.high = np.inf, -np.inf

    def add(self, image: np.ndarray, source: object) -> None:
        """Add an image by the update of Chan, Golub and LeVeque (1979), which loses no digits for any mean."""
        self.dtype = self.dtype or image.dtype.name
        if image.dtype.name != self.dtype:
            raise BadInput(
                f"the training images of {source} have values of type {self.dtype} and of {image.dtype}: convert them "
                "to one type"
            )
        limits = self.channels.limits
        for channel in range(self.channels.count):
            values = image[..., channel].astype(np.float64).ravel()
            values = values[np.isfinite(values)]
            if limits is not None:
                values = np.clip(values, *limits)
            if not len(values):
                continue
            self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
            mean = values.mean()
            squares = np.square(values - mean).sum()
            before, total = self.count[channel], self.count[channel] + len(values)
            shift = mean - self.mean[channel]
            self.mean[channel] += shift * len(values) / total
            self.squares[channel] += squares + shift**2 * before * len(values) / total
            self.count[channel] = total

    def result(self, source: object) -> Channels:
        if not self.dtype:
            raise BadInput(f"there is no training image in {source} whose channels could be measured")
        channels = self.channels
        limits = channels.limits or FULL.get(self.dtype)
        if limits is None and channels.mean:
            raise BadInput(
                f"the images of {source} have floating-point values or a sign, so `mean` and `std` need the `range` of "
                "values that is 0 to 1",
                settings=("data.mean", "data.std", "data.range"),
            )
        constant = [i + 1 for i in range(channels.count) if not self.squares[i] > 0]
        if constant and not channels.mean:
            raise BadInput(
                f"channel {constant[0]} has the same value in all training images of {source}: leave it out with "
                "`bands`, or pass `mean` and `std`",
                settings=("data.bands", "data.mean", "data.std"),
            )
        low, high = limits or (float(self.low), float(self.high))
        if channels.mean:
            return replace(channels, dtype=self.dtype, limits=(low, high))
        mean = (self.mean - low) / (high - low)
        std = np.sqrt(self.squares / self.count) / (high - low)
        return replace(
            channels, dtype=self.dtype, limits=(low, high), mean=tuple(mean.tolist()), std=tuple(std.tolist())
        )


def _as(dtype: np.dtype, low: float, high: float) -> tuple[Any, Any]:
    """The limits as values of the type: whole numbers within the limits for whole types."""
    if dtype.kind == "f":
        return dtype.type(low), dtype.type(high)
    kind = np.iinfo(dtype)
    return dtype.type(np.clip(np.ceil(low), kind.min, kind.max)), dtype.type(
        np.clip(np.floor(high), kind.min, kind.max)
    )


def _wrong(message: str, *settings: str) -> UserError:
    return UserError(message, settings=tuple(f"data.{name}" for name in settings))
