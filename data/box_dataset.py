"""Images with boxes, built from columns: what training reads, and the truth that is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from backbones.errors import BadInput
from data.batch import Sample
from data.box_frames import in_label_frame
from data.channels import Channels
from data.checks import left_out_boxes, repeated_boxes, scored_boxes, training_boxes
from data.class_names import match_names, merge_same_names, with_classes
from data.columns import BoxColumns, Kind
from data.findings import warn_or_raise
from data.options import BoxOptions, ReadOptions
from data.protocols import Transform
from data.reader import ImageReader

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True)
class DetectionReport:
    """Counts over the selected images. Boxes completely outside of their image count as degenerate."""

    images: int
    images_without_boxes: int
    boxes: int  # usable as training targets
    crowd: int  # not used as training targets; in scoring, detections in them are not counted
    degenerate: int  # left out of training and scoring: no area, not finite, or outside of the image
    clipped: int  # extended beyond the image
    difficult: int = 0  # training targets that scoring ignores


class BoxDataset(ImageReader):
    """Images with boxes; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    Attributes:
        columns: images and boxes in the frame of the labels, without degenerate boxes: the truth that is scored.
        annotated: `columns` with the degenerate boxes.
        category_ids: ids of the classes in result files, in the order of `classes`.
        sizes: (n, 2) int64, height and width in original pixels.
        listed: (K,) bool, whether the data list a class; not all of a model's classes need to be.
        report: a `DetectionReport`.

    Args:
        columns: the images of a split, or some of them.
        transform: see `ImageReader`.
        skip_bad: see `ImageReader`.
        levels: see `ImageReader`.
        options: how to read.

    Raises BadInput for missing images, for classes of the same name, and for images whose size contradicts the labels.
    """

    kind: ClassVar[Kind] = "boxes"
    options: ClassVar[type[ReadOptions]] = BoxOptions
    columns: BoxColumns

    def __init__(
        self,
        columns: BoxColumns,
        transform: Transform | None = None,
        skip_bad: int = 0,
        options: Any = None,
        levels: tuple[int, int] | None = None,
    ) -> None:
        options = BoxOptions.of(options or BoxOptions())
        columns = merge_same_names(columns, bool(options.merge_classes))
        is_rgb = Channels.of(options) is None
        columns = in_label_frame(columns, options.exif or "auto", bool(options.scale_boxes), skip_bad, is_rgb)
        self._boxes, self._labels, self._starts, usable, self._report = _targets(columns)
        super().__init__(columns.of_boxes(usable), transform, skip_bad, options, levels)
        self.annotated = columns
        warn_or_raise(left_out_boxes(columns, self.columns))
        warn_or_raise(repeated_boxes(self.columns))
        self.category_ids, self.sizes = columns.category_ids, columns.sizes
        self.listed = np.ones(len(columns.classes), bool)

    def with_classes(self, classes: Sequence[str], category_ids: Sequence[int], of: str) -> Self:
        """The same images with the labels of a model or of other data, see `data.class_names.with_classes`."""
        dataset = self.with_transform(self.transform)
        dataset.columns = with_classes(self.columns, classes, category_ids, of)
        index = np.array(match_names(self.classes, classes))
        dataset._labels = index[self._labels]
        dataset.listed = np.isin(np.arange(len(classes)), index)
        dataset.classes, dataset.category_ids = dataset.columns.classes, dataset.columns.category_ids
        return dataset

    def check_headers(self) -> None:
        """Nothing: `in_label_frame` checks headers whenever boxes are read."""

    def check_training(self) -> None:
        """Raise BadInput if there is nothing to train on; warn about likely mistakes."""
        warn_or_raise(training_boxes(self.annotated, self.columns, len(self._boxes)))

    def check_scored(self) -> None:
        """Raise BadInput if there is nothing to score."""
        warn_or_raise(scored_boxes(self.annotated, self.columns))

    def with_classes_of(self, train: Self) -> Self:
        """The same images with the classes of the training images, matched by name. Raises BadInput if they differ."""
        return self.with_classes(train.classes, train.category_ids, f"the training images, {train.columns.source}")

    @property
    def report(self) -> DetectionReport:
        """Counts of images and boxes."""
        return self._report

    def boxes_by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """All training boxes: (N,) index of the image of each box, and (N, 4) x1 y1 x2 y2 in original pixels."""
        return np.repeat(np.arange(len(self)), np.diff(self._starts)), self._boxes

    def label_counts(self) -> csr_array:
        """(n, K) number of training boxes of each class in each image."""
        from scipy.sparse import csr_array

        image, _ = self.boxes_by_image()
        entries = np.ones(len(image), np.int64), (image, self._labels)
        return csr_array(entries, shape=(len(self), len(self.classes)))

    def read(self, index: int) -> Sample:
        """The labelled image in original pixels. Raises BadInput if it is unreadable or not of the annotated size."""
        height, width = (int(side) for side in self.sizes[index])
        return self.labels_for(index, self.pixels(index, (height, width)))

    def labels_for(self, index: int, image: np.ndarray) -> Sample:
        """The image with its boxes. Raises BadInput if it is not of the annotated size."""
        height, width = (int(side) for side in self.sizes[index])
        if image.shape[:2] != (height, width):
            raise BadInput(
                f"image {self.path(index)} is {image.shape[1]} x {image.shape[0]} pixels, but {self.columns.source} "
                f"says {width} x {height}: its boxes would be wrong. To scale them by the files' sizes, pass "
                "`scale_boxes=True`",
                settings=("data.scale_boxes",),
            )
        return self._labelled(index, image)

    def _labelled(self, index: int, image: np.ndarray) -> Sample:
        rows = slice(self._starts[index], self._starts[index + 1])
        return Sample(
            image=image,
            image_id=int(self.image_ids[index]),
            size=(image.shape[0], image.shape[1]),
            scale=(1.0, 1.0),
            boxes=self._boxes[rows],
            labels=self._labels[rows],
            complete=None if self.columns.complete is None else self.columns.complete[index],
        )

    def blank(self, index: int) -> Sample:
        """A black image of the annotated size, with its labels."""
        height, width = self.sizes[index].tolist()
        return self._labelled(index, self.blank_pixels(height, width))


def _targets(columns: BoxColumns) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, DetectionReport]:
    """Training targets, the boxes to score, and counts.

    Returns (M, 4) float32 boxes, xyxy px within the image, and (M,) int64 labels, sorted by image; (n + 1,) first row
    of each image; (N,) bool, whether a box of the columns can be scored; and the report.
    """
    inside, usable = clipped_boxes(columns.boxes, columns.sizes[columns.image])
    boxes = inside.astype(np.float32)
    clipped = usable & (inside != columns.boxes).any(1)
    rows = np.flatnonzero(usable & ~columns.crowd)
    rows = rows[np.argsort(columns.image[rows], kind="stable")]
    counts = np.bincount(columns.image[rows], minlength=len(columns))
    report = DetectionReport(
        images=len(columns),
        images_without_boxes=int((counts == 0).sum()),
        boxes=len(rows),
        crowd=int(columns.crowd.sum()),
        degenerate=int((~usable & ~columns.crowd).sum()),
        clipped=int((clipped & ~columns.crowd).sum()),
        difficult=int((columns.difficult[rows]).sum()),
    )
    return boxes[rows], columns.label[rows], np.concatenate([[0], np.cumsum(counts)]), usable, report


def clipped_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) boxes clipped to their images, and (N,) bool, whether a box can be scored: finite, with an area inside.

    Args:
        boxes: (N, 4) x1 y1 x2 y2 in original pixels.
        sizes: (N, 2) height and width of the image of each box in pixels.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        inside = boxes.clip(0, sizes[:, [1, 0, 1, 0]])
        rounded = inside.astype(np.float32)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)  # infinite for finite, but huge boxes
        usable = np.isfinite(boxes).all(1) & np.isfinite(area) & (rounded[:, 2:] > rounded[:, :2]).all(1)
    return inside, usable
