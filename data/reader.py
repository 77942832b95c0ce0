"""Base of the readers of image files: access by index or draw, tolerance of unreadable files, and a fingerprint."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch

from backbones.errors import BadInput, UserError
from data.batch import Draw, Sample

log = logging.getLogger(__name__)

Fraction = float | tuple[float, float]
Transform = Callable[[Sample, int], Sample]  # (sample in original pixels, seed) -> sample in network pixels


class LabelledDataset(Protocol):
    """A data set of images with labels, as the engine uses it.

    classes: class names in the order of the class indices.
    image_ids: (n,) int64.
    fingerprint: equal for equal images and labels, see `ImageReader.fingerprint`.
    fingerprint_version: fingerprints and digests of different versions are not comparable.
    digests: digests of parts of the data, see `ImageReader.digests`.
    report: a dataclass that counts what was read and what was left out.
    """

    classes: tuple[str, ...]
    image_ids: np.ndarray
    report: Any
    fingerprint_version: int

    @property
    def fingerprint(self) -> str: ...

    @property
    def digests(self) -> dict[str, str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, draw: int | Draw, /) -> Sample: ...

    def files(self, index: int) -> list[Path]: ...

    def path(self, index: int) -> Path: ...

    def with_transform(self, transform: Transform | None) -> Self: ...


def subset_indices(total: int, fraction: Fraction, seed: int | tuple[int, ...]) -> np.ndarray:
    """Sorted indices of a random subset of `total` items, at least one.

    The items are shuffled by `seed` alone. A number selects the first part of that order: 0.8 selects the first 80%. A
    pair such as (0.8, 1.0) selects from 80% to the end. Subsets of ranges that do not overlap have no item in common.

    Raises UserError if the fraction is not within 0..1 or selects nothing.
    """
    start, stop = fraction if isinstance(fraction, tuple) else (0.0, fraction)
    if not 0 <= start < stop <= 1:
        raise UserError(f"`fraction` must be above 0 and at most 1, not {fraction}", settings=("data.fraction",))
    if (start, stop) == (0, 1):
        return np.arange(total)
    first = min(round(start * total), total - 1)
    return np.sort(np.random.default_rng(seed).permutation(total)[first : max(first + 1, round(stop * total))])


class ImageReader:
    """Images of one folder; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    Subclasses implement `read` and `blank`.

    Args:
        folder: folder of the images.
        names: image files, relative to `folder`. Stored as one array of bytes, which forked workers share.
        image_ids: (n,) int64, one for each name.
        transform: maps a `Sample` in original pixels to network pixels; None returns it unchanged.
        skip_bad: number of images that may be unreadable, see `__getitem__`.
        label_bytes: all labels, or a digest of them, as bytes for the fingerprint.
    """

    fingerprint_version = 1  # raise it if equal data get another fingerprint, so that stored ones are not compared

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        image_ids: np.ndarray,
        transform: Transform | None = None,
        skip_bad: int = 0,
        label_bytes: bytes = b"",
    ) -> None:
        self.folder, self.image_ids, self.transform, self.skip_bad = folder, image_ids, transform, skip_bad
        self._names = np.array([os.fsencode(name) for name in names])
        self._label_bytes = label_bytes
        # One byte per image in shared memory, so that `skip_bad` counts the unreadable images of all workers together.
        self._bad = torch.zeros(len(names) if skip_bad else 0, dtype=torch.uint8).share_memory_()

    def with_transform(self, transform: Transform | None) -> Self:
        """The same images with another transform. The two share labels and the count of unreadable images."""
        dataset = copy.copy(self)
        dataset.transform = transform
        return dataset

    def read(self, index: int) -> Sample:
        """The labelled image in original pixels. Raises BadInput naming the file."""
        raise NotImplementedError

    def blank(self, index: int) -> Sample:
        """A black image with the labels of the image that cannot be read."""
        raise NotImplementedError

    def files(self, index: int) -> list[Path]:
        """The files that the sample is read from."""
        return [self.path(index)]

    def path(self, index: int) -> Path:
        """The image file."""
        return self.folder / os.fsdecode(self._names[index])

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the labels, and of names and sizes in bytes of the selected files."""
        digest = hashlib.sha256(self._label_bytes)
        for index in range(len(self)):
            lengths = [path.stat().st_size if path.exists() else -1 for path in self.files(index)]
            digest.update(b"%s\0%s\0" % (self._names[index], b" ".join(b"%d" % length for length in lengths)))
        return digest.hexdigest()

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of parts of what the fingerprint covers, to find out what differs between two data sets.

        `names` of the images, `sizes` in bytes of their files, and `labels` with the sizes of files of labels.
        """
        names, sizes, labels = hashlib.sha256(), hashlib.sha256(), hashlib.sha256(self._label_bytes)
        for index, name in enumerate(self._names.tolist()):
            names.update(b"%s\0" % name)
            for digest, path in zip((sizes, labels), self.files(index), strict=False):
                digest.update(b"%d\0" % (path.stat().st_size if path.exists() else -1))
        return {"names": names.hexdigest(), "sizes": sizes.hexdigest(), "labels": labels.hexdigest()}

    @property
    def skipped(self) -> list[int]:
        """Ids of the images that any worker could not read so far."""
        return self.image_ids[self._bad.numpy().nonzero()[0]].tolist()

    def __getitem__(self, draw: int | Draw) -> Sample:
        """The transformed sample.

        A plain index is for evaluation: the transform always receives seed 0. A `Draw` is for training.

        Up to `skip_bad` images may be unreadable. In training, the next readable image replaces them. In evaluation, a
        black image with `readable=False` replaces them. Raises `BadInput` for any further unreadable image.
        """
        training = isinstance(draw, Draw)
        index, seed, _ = draw if isinstance(draw, Draw) else (int(draw), 0, 0)
        for candidate in range(index, index + (len(self) if training else 1)):
            try:
                sample = self.read(candidate % len(self))
                break
            except BadInput as error:
                self._skip(candidate % len(self), error)
        else:
            if training:
                raise BadInput(f"none of the {len(self)} images in {self.folder} can be read")
            sample = replace(self.blank(index), readable=False)
        return sample if self.transform is None else self.transform(sample, seed)

    def _skip(self, index: int, error: BadInput) -> None:
        """Count this image as unreadable. Raises BadInput if there are more than `skip_bad`."""
        if not self.skip_bad:
            raise error
        if not self._bad[index]:
            self._bad[index] = 1
            log.warning("skipping: %s", error)
        if (count := len(self.skipped)) > self.skip_bad:
            message = f"{count} images cannot be read, more than `skip_bad={self.skip_bad}`; the last: {error}"
            raise BadInput(message, settings=("data.skip_bad", *error.settings))
