"""What the engine needs of a data set, and what a data set needs of a training's settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from data.batch import Draw, Sample

Transform = Callable[[Sample, int], Sample]  # (sample in original pixels, seed) -> sample in network pixels


class LabelledDataset(Protocol):
    """A data set of images with labels, as the engine uses it.

    columns: files and labels, see `data.columns`.
    classes: class names in the order of the class indices.
    folder: folder of the images.
    image_ids: (n,) int64.
    exif: whether images are turned by their EXIF orientation: "auto", "apply" or "ignore".
    fingerprint: equal for equal images and labels, see `ImageReader.fingerprint`.
    fingerprint_version: fingerprints and digests of different versions are not comparable.
    digests: digests of parts of the data, see `ImageReader.digests`.
    report: a dataclass that counts what was read and what was left out.
    """

    columns: Any
    classes: tuple[str, ...]
    folder: Path
    image_ids: np.ndarray
    exif: str
    fingerprint_version: int

    @property
    def report(self) -> Any: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def digests(self) -> dict[str, str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, draw: int | Draw, /) -> Sample: ...

    def path(self, index: int) -> Path: ...

    def with_transform(self, transform: Transform | None) -> Self: ...


class TrainingData(Protocol):
    """The settings of a training's data that decide which images it reads; `engine.config.TrainData` has them."""

    format: str | None
    train: str | None
    val: str | None
    fraction: float
    holdout: float
    skip_bad: int
