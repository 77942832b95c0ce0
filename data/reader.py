"""Base of the data sets: images by index or draw, tolerance of unreadable files, and a fingerprint."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from backbones.errors import BadInput
from data.batch import Draw, Sample
from data.channels import Channels, measured
from data.checks import left_out_files, repeated_files, shared_files, similar_classes
from data.columns import Fraction, Kind, prefetch
from data.file_sizes import file_sizes
from data.findings import warn_or_raise
from data.image_checks import further_bands, unclear_orientations
from data.images import decode_image, orientation, upright
from data.levels import measure_levels
from data.names import Names
from data.open import held_out, read_split, read_train_val
from data.options import ReadOptions
from data.protocols import TrainingData, Transform
from data.scan import Headers, sample_of, scan

if TYPE_CHECKING:
    from scipy.sparse import csr_array

log = logging.getLogger(__name__)

THREADS = 8  # number of threads that read images to measure their channels


class ImageReader:
    """Images with labels; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    Subclasses implement `read`, `blank`, `report` and `with_classes_of`.

    Attributes:
        columns: files and labels. File names are also stored as one array of bytes, which forked workers share.
        channels: how images other than 8-bit RGB are read, see `data.channels`; None for 8-bit RGB. It may be set.
        classes, image_ids, folder: of the columns.

    Args:
        columns: the images of a split, or some of them.
        transform: maps a `Sample` in original pixels to network pixels; None returns it unchanged.
        skip_bad: number of images that may be unreadable, see `__getitem__`.
        options: how to read; see `data.options`.
        levels: lowest and highest value of 16-bit pixels, which are mapped to 0..255; None maps 0..65535.

    Raises UserError for impossible channels in `options`, BadInput for missing images, and for links that lead out of
    the folder.
    """

    kind: ClassVar[Kind]
    options: ClassVar[type[ReadOptions]]
    fingerprint_version = 2  # raise it if equal data get another fingerprint, so that stored ones are not compared

    def __init__(
        self,
        columns: Any,
        transform: Transform | None = None,
        skip_bad: int = 0,
        options: Any = None,
        levels: tuple[int, int] | None = None,
    ) -> None:
        self.columns, self.transform, self.skip_bad, self.levels = columns, transform, skip_bad, levels
        self.channels = Channels.of(options)
        self.exif = getattr(options, "exif", None) or "auto"
        self.folder: Path = columns.folder
        self.image_ids: np.ndarray = columns.image_ids
        self.classes: tuple[str, ...] = columns.classes
        self._names = Names.of(columns.names)
        # One byte per image in shared memory, so that `skip_bad` counts the unreadable images of all workers together.
        self._bad = torch.zeros(len(columns) if skip_bad else 0, dtype=torch.uint8).share_memory_()
        self._bytes: np.ndarray | None = columns.bytes_of_files
        if columns.content is None and self._bytes is None:
            self._bytes = file_sizes(columns, self._names, skip_bad, bool(getattr(options, "follow_links", None)))

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        split: str,
        transform: Transform | None = None,
        fraction: Fraction = 1.0,
        seed: int = 0,
        skip_bad: int = 0,
        options: ReadOptions | None = None,
    ) -> Self:
        """The images of a split of the data set in `root`, or a random subset of them, see `subset_indices`."""
        options = options or cls.options()
        columns = read_split(cls.kind, Path(root), split, options)
        return cls(columns.subset(fraction, seed), transform, skip_bad, options)

    @classmethod
    def open_train_val(cls, root: Path, data: TrainingData, seed: int) -> tuple[Self, Self]:
        """The training images and the images to score, without transforms. They never overlap.

        The range of values of 16-bit pixels, and the normalisation of images other than RGB, are measured in the
        training images. Classes of the images to score are those of the training images, matched by name.

        Raises BadInput if there are no images to score, or if their classes do not match.
        """
        options = cls.options.of(data)  # type: ignore[arg-type]
        train_columns, val_columns, holdout = read_train_val(cls.kind, root, options, data.holdout)
        selected = train_columns.subset((0.0, data.fraction * (1 - holdout)), seed)
        for columns in (train_columns, val_columns):
            if columns is not None:
                warn_or_raise(left_out_files(columns))
                warn_or_raise(repeated_files(columns))
        channels = Channels.of(data)
        train = cls(selected, None, data.skip_bad, options, measure_levels(selected) if channels is None else None)
        if channels is not None:
            train.channels = measured(channels, train.all_pixels(), train.folder)
        train.check_headers()
        train.check_training()
        warn_or_raise(similar_classes(train.columns))
        scored = held_out(train_columns, holdout, seed) if val_columns is None else val_columns
        warn_or_raise(shared_files(train.columns, scored))
        val = cls(scored, None, data.skip_bad, options, train.levels)
        val.channels = train.channels
        val.check_scored()
        return train, val.with_classes_of(train)

    def check_headers(self) -> None:
        """Warn about orientations that the labels do not resolve, and about bands that are not read."""
        headers = scan(self.columns, sample_of(self.columns))
        if self.exif == "auto":
            warn_or_raise(unclear_orientations(self.columns, headers, self.has_unclear_orientation(headers)))
        if self.channels is None:
            warn_or_raise(further_bands(self.columns, headers))

    def has_unclear_orientation(self, headers: Headers) -> np.ndarray:
        """(n,) bool, whether an image has an orientation that its labels do not resolve."""
        return headers.tagged

    def check_training(self) -> None:
        """Raise BadInput if there is nothing to train on; warn about likely mistakes."""

    def check_scored(self) -> None:
        """Raise BadInput if there is nothing to score."""

    def with_classes_of(self, train: Self) -> Self:
        """The same images with the classes of the training images, matched by name. Raises BadInput if they differ."""
        raise NotImplementedError

    def label_counts(self) -> csr_array:
        """(n, K) number of labels of each class in each image: its class, its boxes, or its pixels."""
        raise NotImplementedError

    def with_transform(self, transform: Transform | None) -> Self:
        """The same images with another transform. The two share labels and the count of unreadable images."""
        dataset = copy.copy(self)
        dataset.transform = transform
        return dataset

    @property
    def report(self) -> Any:
        """A dataclass that counts what was read and what was left out."""
        raise NotImplementedError

    def read(self, index: int) -> Sample:
        """The labelled image in original pixels. Raises BadInput naming the file."""
        raise NotImplementedError

    def labels_for(self, index: int, image: np.ndarray) -> Sample:
        """The sample of an image whose pixels were read already. Raises BadInput if its labels have another size."""
        raise NotImplementedError

    def blank(self, index: int) -> Sample:
        """A black image with the labels of the image that cannot be read."""
        raise NotImplementedError

    def pixels(self, index: int, labelled_size: tuple[int, int] | None) -> np.ndarray:
        """The image, (H, W, 3) uint8 RGB or (H, W, C) of `channels`, in the orientation in which it was labelled.

        With `exif="auto"`, its EXIF orientation is applied if only then the image has `labelled_size`, (height, width).
        """
        content = self._content(index)
        if self.channels is None:
            image = decode_image(content, self.path(index), levels=self.levels)
        else:
            image = self.channels.decode(content, self.path(index))
        tag = 1 if self.exif == "ignore" else orientation(content)
        if tag == 1:
            return image
        turned = upright(image, tag)
        fits_only_turned = image.shape[:2] != labelled_size and turned.shape[:2] == labelled_size
        return turned if self.exif == "apply" or fits_only_turned else image

    def all_pixels(self) -> Iterator[np.ndarray]:
        """The stored pixels of all images in order. Images that cannot be read are skipped, see `skip_bad`."""

        def read(index: int) -> np.ndarray | BadInput:
            try:
                return self.pixels(index, None)
            except BadInput as error:
                return error

        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(self), 2 * THREADS):
                indices = range(start, min(start + 2 * THREADS, len(self)))
                for index, image in zip(indices, pool.map(read, indices), strict=True):
                    if isinstance(image, BadInput):
                        self.skip(index, image)
                    else:
                        yield image

    def blank_pixels(self, height: int, width: int) -> np.ndarray:
        """The pixels of a black image, which replaces one that cannot be read."""
        return np.zeros((height, width, 3), np.uint8) if self.channels is None else self.channels.blank(height, width)

    def _content(self, index: int) -> bytes:
        if self.columns.content is not None:
            return self.columns.content(index)
        path = self.path(index)
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read image {path}: {getattr(error, 'strerror', None) or error}") from error

    def prefetch(self, indices: Sequence[int]) -> None:
        """Request the images that are read next, if a store holds them. The loader calls this for each batch."""
        prefetch(self.columns.content, indices)

    def path(self, index: int) -> Path:
        """The image file."""
        return self.folder / self._names[index]

    def name(self, index: int) -> str:
        """The image file relative to its folder, with slashes."""
        return Path(self._names[index]).as_posix()

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the labels, and of names and sizes in bytes of the image files."""
        return hashlib.sha256(" ".join(self.digests.values()).encode()).hexdigest()

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 (hex) of the parts of the fingerprint, to find out what differs between two data sets.

        `names` of the images, `sizes` in bytes of their files, and `labels`. Moving the data changes none of them.
        """
        sizes = [-1] * len(self) if self._bytes is None else self._bytes.tolist()  # -1: images that are not files
        return {
            "names": self._names.digest.hexdigest(),
            "sizes": hashlib.sha256("".join(f"{size}\0" for size in sizes).encode()).hexdigest(),
            "labels": self._label_digest().hex(),
        }

    def _label_digest(self) -> bytes:
        """SHA-256 of the labels."""
        return self.columns.label_digest

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
                self.skip(candidate % len(self), error)
        else:
            if training:
                raise BadInput(f"none of the {len(self)} images in {self.folder} can be read")
            sample = replace(self.blank(index), readable=False)
        return sample if self.transform is None else self.transform(sample, seed)

    def skip(self, index: int, error: BadInput) -> None:
        """Count this image as unreadable. Raises BadInput if there are more than `skip_bad`."""
        if not self.skip_bad:
            raise error
        if not self._bad[index]:
            self._bad[index] = 1
            log.warning("skipping: %s", error)
        if (count := len(self.skipped)) > self.skip_bad:
            message = f"{count} images cannot be read, more than `skip_bad={self.skip_bad}`; the last: {error}"
            raise BadInput(message, settings=("data.skip_bad", *error.settings))
