"""What readers of image files share: access by index or draw, patience with bad files, and a fingerprint."""

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
    """Images with labels, as the engine uses them: readers of images, and features cached in their place.

    classes: names, in the order of the class indices.
    image_ids: (n,) int64.
    fingerprint: equal for equal images and labels, see `ImageReader.fingerprint`.
    report: a dataclass of counts, of what was read and what was left out.
    """

    classes: tuple[str, ...]
    image_ids: np.ndarray
    report: Any

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, draw: int | Draw, /) -> Sample: ...

    def files(self, index: int) -> list[Path]: ...

    def path(self, index: int) -> Path: ...

    def with_transform(self, transform: Transform | None) -> Self: ...


def share(total: int, fraction: Fraction, seed: int | tuple[int, ...]) -> np.ndarray:
    """Sorted positions of a share of `total` things, one at least, in an order that only `seed` decides.

    A number takes the first of that order; a pair, such as (0.8, 1.0), what lies between: shares that do not overlap
    have nothing in common. Raises UserError for what is no share.
    """
    start, stop = fraction if isinstance(fraction, tuple) else (0.0, fraction)
    if not 0 <= start < stop <= 1:
        raise UserError(f"fraction must be above 0 and at most 1, not {fraction}")
    if (start, stop) == (0, 1):
        return np.arange(total)
    first = min(round(start * total), total - 1)
    return np.sort(np.random.default_rng(seed).permutation(total)[first : max(first + 1, round(stop * total))])


class ImageReader:
    """Images of one folder; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    Subclasses say how a sample is read and what stands in for one that cannot be.

    Args:
        folder: that holds the images.
        names: of the image files, relative to `folder`; kept as one block of bytes, which forked workers share.
        image_ids: (n,) int64, one for each name.
        transform: maps a `Sample` in original pixels to network pixels; None leaves it as it is.
        skip_bad: how many images may be unreadable, see `__getitem__`.
        told: what else the labels depend on, for the fingerprint.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        image_ids: np.ndarray,
        transform: Transform | None = None,
        skip_bad: int = 0,
        told: bytes = b"",
    ) -> None:
        self.folder, self.image_ids, self.transform, self.skip_bad = folder, image_ids, transform, skip_bad
        self._names = np.array([os.fsencode(name) for name in names])
        self._told = told
        # One byte per image that all workers share, so that they spend one allowance together.
        self._bad = torch.zeros(len(names) if skip_bad else 0, dtype=torch.uint8).share_memory_()

    def with_transform(self, transform: Transform | None) -> Self:
        """The same images through another transform. Both share their columns, and their patience with bad files."""
        dataset = copy.copy(self)
        dataset.transform = transform
        return dataset

    def read(self, index: int) -> Sample:
        """The labelled image in original pixels. Raises BadInput naming the file."""
        raise NotImplementedError

    def blank(self, index: int) -> Sample:
        """A black stand-in for an image that cannot be read."""
        raise NotImplementedError

    def files(self, index: int) -> list[Path]:
        """What a sample is read from."""
        return [self.path(index)]

    def path(self, index: int) -> Path:
        """The image file."""
        return self.folder / os.fsdecode(self._names[index])

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over what was told of the labels and the selected images' names and sizes in bytes."""
        digest = hashlib.sha256(self._told)
        for index in range(len(self)):
            lengths = [path.stat().st_size if path.exists() else -1 for path in self.files(index)]
            digest.update(b"%s\0%s\0" % (self._names[index], b" ".join(b"%d" % length for length in lengths)))
        return digest.hexdigest()

    @property
    def skipped(self) -> list[int]:
        """Ids of the images found unreadable so far, by any worker."""
        return self.image_ids[self._bad.numpy().nonzero()[0]].tolist()

    def __getitem__(self, draw: int | Draw) -> Sample:
        """The transformed sample.

        A plain index is for evaluation: the transform always gets seed 0. A `Draw` is for training.
        Raises `BadInput` where a sample cannot be read. While `skip_bad` lasts, the next readable image takes its place
        in training, and a blank one, marked not `readable`, in evaluation.
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
        """Spend one of `skip_bad` on this image, or re-raise."""
        if not self.skip_bad:
            raise error
        if not self._bad[index]:
            self._bad[index] = 1
            log.warning("skipping: %s", error)
        if (count := len(self.skipped)) > self.skip_bad:
            raise BadInput(f"{count} images cannot be read, more than skip_bad={self.skip_bad}; the last: {error}")
