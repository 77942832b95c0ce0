"""The labels of one split as columns: what the formats return, and what the data sets are built from.

Columns are a few flat arrays, not one object per box: forked workers share the memory of arrays with their parent. They
would copy the memory of 860,000 dicts, because reading a dict changes its reference count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from backbones.errors import UserError
from data.names import take

Kind = Literal["boxes", "masks", "classes"]
Fraction = float | tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """n images of one split. Subclasses add the labels. Can be sent to other processes, so functions are no closures.

    Attributes:
        source: the file or folder that messages name.
        folder: folder of the images. File names never lead out of it.
        names: n files, relative to `folder`.
        image_ids: (n,) int64, unique. Result files have them. Formats without ids number the images of the split from
            1, in the order of `names`.
        classes: K names by class index, without duplicates.
        label_digest: of the labels, for the fingerprint. Equal labels in two formats need not have equal digests.
        left_out: reason, as the end of "N files are left out: ..." -> names of these files.
        content: index -> the encoded image, for formats that do not store one file per image; None if `folder` and
            `names` are files.
        bytes_of_files: (n,) int64, size in bytes of each encoded image; -1 for unreadable files. Only from formats that
            know it without the files, or that have listed the files themselves, which then exist and pass the rules for
            links.
        headers: (n, 6) the headers of the images, see `data.scan.row_of`, from formats that store them.
    """

    source: Path
    folder: Path
    names: Sequence[str]
    image_ids: np.ndarray
    classes: tuple[str, ...]
    label_digest: bytes
    left_out: dict[str, list[str]] = field(default_factory=dict)
    content: Callable[[int], bytes] | None = None
    bytes_of_files: np.ndarray | None = None
    headers: np.ndarray | None = None
    format: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, fraction: Fraction, seed: int) -> Self:
        """A random subset of the images, see `subset_indices`."""
        return self if fraction in (1.0, (0.0, 1.0)) else self.select(subset_indices(len(self), fraction, seed))

    def select(self, rows: np.ndarray) -> Self:
        """The images with these indices, ascending."""
        content = None if self.content is None else Selected(self.content, rows)
        sizes = None if self.bytes_of_files is None else self.bytes_of_files[rows]
        headers = None if self.headers is None else self.headers[rows]
        return replace(
            self,
            names=take(self.names, rows),
            image_ids=self.image_ids[rows],
            content=content,
            bytes_of_files=sizes,
            headers=headers,
        )


@dataclass(frozen=True)
class Selected:
    """A function of an index, for some of the indices. Can be sent to other processes, as a lambda cannot."""

    function: Callable[[int], Any]
    rows: np.ndarray

    def __call__(self, index: int) -> Any:
        """The function at the index of the `index`th row."""
        return self.function(int(self.rows[index]))

    def prefetch(self, indices: Sequence[int]) -> None:
        """See `prefetch`."""
        prefetch(self.function, self.rows[list(indices)].tolist())


def prefetch(function: Callable[[int], Any] | None, indices: Sequence[int]) -> None:
    """Request what the function will read for these indices, if it reads from a store that answers many at once."""
    if (own := getattr(function, "prefetch", None)) is not None:
        own(indices)


@dataclass(frozen=True, kw_only=True)
class BoxColumns(Columns):
    """Images with N boxes.

    Attributes:
        sizes: (n, 2) int64, height and width of the images in pixels, as annotated; 0 if not annotated.
        sizes_of_files: whether the labels state no sizes, and `sizes` are those of the files, by which a format has
            turned fractions into pixels: as they are stored or, with `exif="apply"`, upright. 0 if unreadable.
        category_ids: K ids of the classes in result files.
        image: (N,) int64, index of the image of each box.
        label: (N,) int64, index of its class.
        boxes: (N, 4) float64, x1 y1 x2 y2 in original pixels, as annotated. Some may be invalid.
        crowd: (N,) bool. COCO's crowd regions are not training targets, and detections in them are not counted.
        difficult: (N,) bool. Pascal VOC's difficult objects are training targets. In scoring they are neither required
            nor counted.
        areas: (N,) float64, px^2, of objects for COCO's size ranges; NaN uses width times height of the box.
        complete: (n, K) bool, whether every object of a class in an image has a box; also True if there is no object.
            None: always True. Where it is False, a prediction without an object has no loss in training and is not
            counted in scoring.
    """

    sizes: np.ndarray
    category_ids: tuple[int, ...]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    areas: np.ndarray
    complete: np.ndarray | None = None
    sizes_of_files: bool = False

    def select(self, rows: np.ndarray) -> Self:
        """The images with these indices, ascending, and their boxes."""
        position = np.full(len(self), -1)
        position[rows] = np.arange(len(rows))
        image = position[self.image]
        complete = None if self.complete is None else self.complete[rows]
        columns = replace(super().select(rows), sizes=self.sizes[rows], image=image, complete=complete)
        return columns.of_boxes(image >= 0)

    def labelled(self) -> np.ndarray:
        """(n, K) bool, whether an image has boxes of a class."""
        labelled = np.zeros((len(self), len(self.classes)), bool)
        labelled[self.image, self.label] = True
        return labelled

    def of_boxes(self, rows: np.ndarray) -> Self:
        """The same images with some of the boxes. `rows`: indices, or (N,) bool."""
        names = ("image", "label", "boxes", "crowd", "difficult", "areas")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def renamed(self, classes: Sequence[str], category_ids: Sequence[int], index: Sequence[int] | np.ndarray) -> Self:
        """The same boxes with other classes.

        Args:
            classes, category_ids: the new classes, and their ids in result files.
            index: (K,) new index of each class. -1 leaves a class out, which must have no boxes.

        Several classes may become one. In partly labelled images, nothing is known about a class that is not one of the
        old ones.
        """
        index, complete = np.asarray(index, np.int64), None
        if self.complete is not None:
            complete = np.zeros((len(self), len(classes)), bool)
            for new in np.unique(index[index >= 0]):
                complete[:, new] = self.complete[:, index == new].all(1)
            complete[self.complete.all(1)] = True
        return replace(
            self,
            classes=tuple(classes),
            category_ids=tuple(category_ids),
            label=index[self.label],
            complete=complete,
        )


@dataclass(frozen=True, kw_only=True)
class ClassColumns(Columns):
    """Images with one class each.

    Attributes:
        label: (n,) int64, index of the class of each image.
        numbered: whether `classes` are whole numbers in a label file, which may be indices from 0 into the class names.
    """

    label: np.ndarray
    numbered: bool = False

    def subset(self, fraction: Fraction, seed: int) -> Self:
        """A random subset of the images of each class, so that every class keeps its share."""
        if fraction in (1.0, (0.0, 1.0)):
            return self
        order = self.label.argsort(kind="stable")
        by_class = np.split(order, np.unique(self.label[order], return_index=True)[1][1:])
        subsets = [own[subset_indices(len(own), fraction, (seed, int(self.label[own[0]])))] for own in by_class]
        return self.select(np.sort(np.concatenate(subsets)))

    def select(self, rows: np.ndarray) -> Self:
        """The images with these indices, ascending."""
        return replace(super().select(rows), label=self.label[rows])


@dataclass(frozen=True, kw_only=True)
class MaskColumns(Columns):
    """Images with a class for every pixel.

    Attributes:
        class_map: index -> (H, W) uint8 class indices, `IGNORE` for no class. Raises BadInput naming the mask. Can be
            sent to other processes.
        mask_files: n files that the class maps are read from; empty if they are not files.
        mask_digests: (n, 32) uint8, SHA-256 of the mask files that the class maps were made from, from formats that
            store them.
        ignored: indices of the classes that no class map contains, because settings ignore their value.
        notes: what a person should know about the classes, one sentence each.
    """

    class_map: Callable[[int], np.ndarray]
    mask_files: Sequence[Path] = ()
    mask_digests: np.ndarray | None = None
    ignored: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def select(self, rows: np.ndarray) -> Self:
        """The images with these indices, ascending."""
        files = [self.mask_files[i] for i in rows] if self.mask_files else ()
        digests = None if self.mask_digests is None else self.mask_digests[rows]
        class_map = Selected(self.class_map, rows)
        return replace(super().select(rows), class_map=class_map, mask_files=files, mask_digests=digests)


def subset_indices(total: int, fraction: Fraction, seed: int | tuple[int, ...]) -> np.ndarray:
    """Sorted indices of a random subset of `total` items.

    The items are shuffled by `seed` alone. A number selects the first part of that order: 0.8 selects the first 80%. A
    pair such as (0.8, 1.0) selects from 80% to the end. Both select at least one of two or more items; of one item, a
    range that does not start at 0 selects nothing. Subsets of ranges that do not overlap have no item in common.

    Raises UserError if the fraction is not within 0..1 or selects nothing.
    """
    start, stop = fraction if isinstance(fraction, tuple) else (0.0, fraction)
    if not 0 <= start < stop <= 1:
        raise UserError(f"`fraction` must be above 0 and at most 1, not {fraction}", settings=("data.fraction",))
    if (start, stop) == (0, 1):
        return np.arange(total)
    first, last = (_position(share, total) for share in (start, stop))
    return np.sort(np.random.default_rng(seed).permutation(total)[first:last])


def _position(share: float, total: int) -> int:
    """Number of items before `share` of them: at least one, and not all, for shares between 0 and 1."""
    if share in (0, 1):
        return int(share * total)
    return min(max(1, round(share * total)), max(1, total - 1))


def digest_of(*parts: bytes | str | np.ndarray | Sequence[str]) -> bytes:
    """SHA-256 of texts, arrays and lists of texts, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            content = np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            content = part
        else:
            texts = [part] if isinstance(part, str) else part
            content = "\0".join(texts).encode(errors="surrogateescape")
        digest.update(b"%d\0" % len(content))
        digest.update(content)
    return digest.digest()
