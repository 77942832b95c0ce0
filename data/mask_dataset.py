"""Images with a class for every pixel, built from columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from backbones.errors import BadInput
from data.batch import IGNORE, Sample
from data.class_names import match_names
from data.columns import Kind, MaskColumns, prefetch
from data.formats.mask_pairs import NO_IMAGE
from data.mask_checks import check_scored_masks, check_training_masks
from data.options import MaskOptions, ReadOptions
from data.protocols import Transform
from data.reader import ImageReader
from data.scan import Headers

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLANK = (64, 64)  # height and width of the black image that replaces an unreadable image and mask, px
THREADS = 8


@dataclass(frozen=True)
class SegmentationReport:
    """Counts."""

    images: int  # selected
    masks_without_image: int  # in the whole split; ignored


class MaskDataset(ImageReader):
    """Images with a class for every pixel; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    A sample's `mask` is (H, W) uint8: indices into `classes`, and `IGNORE` for pixels without a class.

    Attributes:
        report: a `SegmentationReport`.

    Args:
        columns: the images of a split, or some of them.
        transform: see `ImageReader`.
        skip_bad: see `ImageReader`.
        options: see `ImageReader`.
        levels: see `ImageReader`.

    Raises BadInput for images without a mask.
    """

    kind: ClassVar[Kind] = "masks"
    options: ClassVar[type[ReadOptions]] = MaskOptions
    columns: MaskColumns

    def __init__(
        self,
        columns: MaskColumns,
        transform: Transform | None = None,
        skip_bad: int = 0,
        options: Any = None,
        levels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(columns, transform, skip_bad, options, levels)
        missing = [str(file) for file in columns.mask_files if not file.is_file()]
        if len(missing) > skip_bad:
            examples = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise BadInput(f"{len(missing)} of {len(self)} images in {self.folder} have no mask: {examples}")

    @property
    def report(self) -> SegmentationReport:
        """Counts of the images."""
        return SegmentationReport(len(self), len(self.columns.left_out.get(NO_IMAGE, ())))

    def check_training(self) -> None:
        """Raise BadInput for unknown mask values, and if no pixel has a class. Warn about classes without a pixel."""
        check_training_masks(self.columns, self.skip_bad)

    def check_scored(self) -> None:
        """Raise BadInput for unknown mask values, and if no pixel has a class."""
        check_scored_masks(self.columns, self.skip_bad)

    def has_unclear_orientation(self, headers: Headers) -> np.ndarray:
        """(n,) bool: the size of the mask does not resolve a half turn, and nothing in a square image."""
        return headers.tagged & (~headers.turned | headers.is_square)

    def with_classes(self, classes: Sequence[str], of: str) -> Self:
        """The same images with the class indices of a model or of other data, matched by name.

        Raises BadInput for a class that is not among `classes`.
        """
        if tuple(classes) == self.classes:
            return self
        index = match_names(self.classes, classes)
        unknown = [name for name, i in zip(self.classes, index, strict=True) if i < 0]
        if unknown:
            raise BadInput(
                f"{len(unknown)} of the {len(self.classes)} classes in {self.columns.source} are not among the "
                f"{len(classes)} classes of {of}: {', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}. Those "
                f"of {of} are {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
            )
        lookup = np.full(256, IGNORE, np.uint8)
        lookup[: len(index)] = index
        dataset = self.with_transform(self.transform)
        ignored = frozenset(index[i] for i in self.columns.ignored)
        dataset.columns = replace(
            self.columns, classes=tuple(classes), class_map=_Renumbered(self.columns.class_map, lookup), ignored=ignored
        )
        dataset.classes = tuple(classes)
        return dataset

    def with_classes_of(self, train: Self) -> Self:
        """The same images with the class indices of the training images. Raises BadInput for an unknown class."""
        return self.with_classes(train.classes, f"the training images in {train.folder}")

    def _label_digest(self) -> bytes:
        """SHA-256 of class names, mask values and the contents of the mask files."""
        digest = hashlib.sha256(self.columns.label_digest)
        if self.columns.mask_digests is not None:
            digest.update(self.columns.mask_digests.tobytes())
            return digest.digest()
        with ThreadPoolExecutor(THREADS) as pool:
            for content in pool.map(digest_of_mask, self.columns.mask_files):
                digest.update(content)
        return digest.digest()

    def label_counts(self) -> csr_array:
        """(n, K) number of pixels of each class in each image. Reads all masks.

        A mask that cannot be read has no pixels if `skip_bad` allows unreadable images; otherwise raises BadInput.
        """
        from scipy.sparse import csr_array, vstack

        classes = len(self.classes)

        def counts(index: int) -> csr_array:
            try:
                mask = self.columns.class_map(index)
            except BadInput:
                if not self.skip_bad:
                    raise
                mask = np.zeros(0, np.uint8)
            return csr_array(np.bincount(mask[mask != IGNORE], minlength=classes)[None])

        with ThreadPoolExecutor(THREADS) as pool:
            return vstack(list(pool.map(counts, range(len(self)))), format="csr")

    def read(self, index: int) -> Sample:
        """Image and mask in original pixels. Raises BadInput if they differ in size or cannot be read."""
        mask = self.columns.class_map(index)
        height, width = mask.shape
        return self._of_equal_size(index, self.pixels(index, (height, width)), mask)

    def labels_for(self, index: int, image: np.ndarray) -> Sample:
        """The image with its mask. Raises BadInput if they differ in size or the mask cannot be read."""
        return self._of_equal_size(index, image, self.columns.class_map(index))

    def _of_equal_size(self, index: int, image: np.ndarray, mask: np.ndarray) -> Sample:
        height, width = mask.shape
        if image.shape[:2] != mask.shape:
            raise BadInput(
                f"image {self.path(index)} is {image.shape[1]} x {image.shape[0]} pixels, but its mask "
                f"{self.mask_name(index)} is {width} x {height}: the sizes must be equal"
            )
        return self._labelled(index, image, mask)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Request the images and masks that are read next, if a store holds them."""
        super().prefetch(indices)
        prefetch(self.columns.class_map, indices)

    def mask_name(self, index: int) -> str:
        """The file of the mask, or the source of the labels, for messages."""
        return str(self.columns.mask_files[index] if self.columns.mask_files else self.columns.source)

    def blank(self, index: int) -> Sample:
        """A black image whose pixels have no class."""
        try:
            height, width = self.columns.class_map(index).shape
        except BadInput:
            height, width = BLANK
        shape = (height, width)
        return self._labelled(index, self.blank_pixels(*shape), np.full(shape, IGNORE, np.uint8))

    def _labelled(self, index: int, image: np.ndarray, mask: np.ndarray) -> Sample:
        return Sample(
            image=image,
            image_id=int(self.image_ids[index]),
            size=(image.shape[0], image.shape[1]),
            scale=(1.0, 1.0),
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int64),
            mask=mask,
        )


@dataclass(frozen=True)
class _Renumbered:
    """Class maps with other class indices. `lookup`: (256,) uint8, the new index of each index."""

    class_map: Callable[[int], np.ndarray]
    lookup: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        return self.lookup[self.class_map(index)]

    def prefetch(self, indices: Sequence[int]) -> None:
        """See `data.columns.prefetch`."""
        prefetch(self.class_map, indices)


def digest_of_mask(file: Path) -> bytes:
    """SHA-256 of the content; empty for a file that cannot be read, which is reported when it is used."""
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return b""
