"""Images with one class each, built from columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from backbones.errors import BadInput
from data.batch import Sample
from data.checks import empty_classes, unscored_classes
from data.class_names import match_names
from data.columns import ClassColumns, Kind
from data.findings import warn_or_raise
from data.options import ClassOptions, ReadOptions
from data.protocols import Transform
from data.reader import ImageReader

if TYPE_CHECKING:
    from scipy.sparse import csr_array

BLANK = (224, 224)  # height and width of the black image that replaces an unreadable one, px


@dataclass(frozen=True)
class ClassificationReport:
    """Counts over the selected images."""

    images: int
    classes: int
    empty_classes: tuple[str, ...]  # classes without an image
    images_per_class: tuple[int, int]  # lowest and highest count of a class


class ClassDataset(ImageReader):
    """Images with one class each; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    A sample's `labels` is (1,): the index of its class in `classes`. Its `boxes` is (1, 4) zeros, since batches need as
    many boxes as labels.

    Attributes:
        labels: (n,) int64 indices into `classes`.
        report: a `ClassificationReport`.

    Args:
        columns: the images of a split, or some of them.
        transform: see `ImageReader`.
        skip_bad: see `ImageReader`.
        options: see `ImageReader`.
        levels: see `ImageReader`.
    """

    kind: ClassVar[Kind] = "classes"
    options: ClassVar[type[ReadOptions]] = ClassOptions
    columns: ClassColumns

    def __init__(
        self,
        columns: ClassColumns,
        transform: Transform | None = None,
        skip_bad: int = 0,
        options: Any = None,
        levels: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(columns, transform, skip_bad, options, levels)
        self.labels = columns.label

    def check_training(self) -> None:
        """Raise BadInput for a single class. Warn about classes without an image."""
        if len(self.classes) < 2:
            raise BadInput(
                f"{self.columns.source} has a single class, '{self.classes[0]}': a classifier needs at least two"
            )
        warn_or_raise(empty_classes(self.columns))

    @property
    def report(self) -> ClassificationReport:
        """Counts of the images."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return ClassificationReport(
            images=len(self),
            classes=len(self.classes),
            empty_classes=tuple(name for name, count in zip(self.classes, counts, strict=True) if not count),
            images_per_class=(int(counts.min()), int(counts.max())),
        )

    def label_counts(self) -> csr_array:
        """(n, K) number of labels of each class in each image, one per image."""
        from scipy.sparse import csr_array

        entries = np.ones(len(self), np.int64), (np.arange(len(self)), self.labels)
        return csr_array(entries, shape=(len(self), len(self.classes)))

    def with_classes(self, classes: Sequence[str], of: str) -> Self:
        """The same images with the class indices of a model or of other data, matched by name.

        Numbers in a label file are names if all of them are names, else indices from 0 into `classes`, unless those
        are numbers, too.

        Raises BadInput if a class with images is not among `classes`.
        """
        index = np.array(match_names(self.classes, classes))
        if (index < 0).any() and self.columns.numbered and not all(name.isdecimal() for name in classes):
            index = np.array([int(name) for name in self.classes])
            if index.max() >= len(classes):
                raise BadInput(
                    f"{self.columns.source} has the number {index.max()}, but {of} has {len(classes)} classes, counted "
                    "from 0"
                )
        present = np.bincount(self.labels, minlength=len(self.classes)) > 0
        unknown = [name for name, i, has in zip(self.classes, index, present, strict=True) if i < 0 and has]
        if unknown:
            raise BadInput(
                f"{len(unknown)} classes in {self.folder} are not among the {len(classes)} classes of {of}: "
                f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}. Those of {of} are "
                f"{', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
            )
        dataset = self.with_transform(self.transform)
        dataset.labels, dataset.classes = index[self.labels], tuple(classes)
        return dataset

    def with_names(self, names: Sequence[str]) -> Self:
        """The same images; numbers in a label file become the names with these indices."""
        return self.with_classes(names, "the model") if self.columns.numbered else self

    def with_classes_of(self, train: Self) -> Self:
        """The same images with the class indices of the training images. Raises BadInput for an unknown class.

        Warns about classes without an image here: their accuracy is not measured.
        """
        dataset = self.with_classes(train.classes, f"the training images in {train.folder}")
        warn_or_raise(unscored_classes(self.columns, dataset.report.empty_classes, len(train.classes)))
        return dataset

    def read(self, index: int) -> Sample:
        """The image with its class, in original pixels."""
        return self.labels_for(index, self.pixels(index, None))

    def labels_for(self, index: int, image: np.ndarray) -> Sample:
        """The image with its class."""
        return self._labelled(index, image)

    def blank(self, index: int) -> Sample:
        """A black image with the label."""
        return self._labelled(index, self.blank_pixels(*BLANK))

    def _labelled(self, index: int, image: np.ndarray) -> Sample:
        return Sample(
            image=image,
            image_id=int(self.image_ids[index]),
            size=(image.shape[0], image.shape[1]),
            scale=(1.0, 1.0),
            boxes=np.zeros((1, 4), np.float32),
            labels=self.labels[index : index + 1],
        )
