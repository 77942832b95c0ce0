"""Detection data in COCO's layout: `ROOT/annotations/instances_{split}[2017].json`, images in `ROOT/{split}[2017]/`.

The annotations are a few flat arrays, not one dict per box: forked workers share the memory of arrays with their
parent. They would copy the memory of 860,000 dicts, because reading a dict changes its reference count.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.batch import Sample
from data.formats.coco_json import Tables, locate, parse, read
from data.images import read_image
from data.reader import Fraction, ImageReader, Transform, subset_indices


@dataclass(frozen=True)
class DetectionReport:
    """Counts over the selected images. Boxes completely outside of their image count as degenerate."""

    images: int
    images_without_boxes: int
    boxes: int  # usable as training targets
    crowd: int  # not used as training targets; the evaluator reads them from the JSON file
    degenerate: int  # dropped: no area, or not finite
    clipped: int  # extended beyond the image


class CocoDetection(ImageReader):
    """Images with boxes; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    Attributes:
        classes, category_ids: class names and original category ids, in the order of the class index; sorted by id.
        image_ids: (n,) int64.
        sizes: (n, 2) int64, (height, width) in the annotation file.
        annotation_file: the JSON file, from which the evaluator reads the ground truth with its crowds.
        report: a `DetectionReport`.

    Args:
        root: root of the data set.
        split: such as "train" or "val".
        transform: see `ImageReader`.
        fraction: size of the random subset of the images to use, see `subset_indices`.
        seed: of the subset.
        skip_bad: see `ImageReader`.

    Raises `BadInput` with the file and the cause; if files are missing, also with the expected layout.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        transform: Transform | None = None,
        fraction: Fraction = 1.0,
        seed: int = 0,
        skip_bad: int = 0,
    ) -> None:
        self.annotation_file, folder = locate(Path(root), split)
        content = read(self.annotation_file)
        label_digest = hashlib.sha256(content).digest()
        tables = parse(content, self.annotation_file)
        del content

        selected = subset_indices(len(tables.image_ids), fraction, seed)
        self.classes, self.category_ids = tables.classes, tables.category_ids
        names, image_ids = [tables.names[i] for i in selected], tables.image_ids[selected]
        super().__init__(folder, names, image_ids, transform, skip_bad, label_digest)
        self.sizes = tables.sizes[selected]
        self._boxes, self._labels, self._starts, self.report = _targets(tables, selected)
        self._check_files()

    def boxes_by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """All training boxes: (N,) index of the image of each box, and (N, 4) x1 y1 x2 y2 in original pixels."""
        return np.repeat(np.arange(len(self)), np.diff(self._starts)), self._boxes

    @property
    def box_labels(self) -> np.ndarray:
        """(N,) class indices of the boxes of `boxes_by_image`."""
        return self._labels

    def read(self, index: int) -> Sample:
        """The labelled image in original pixels. Raises BadInput if it is unreadable or not of the annotated size."""
        image = read_image(self.path(index))
        if image.shape[:2] != tuple(self.sizes[index]):
            height, width = self.sizes[index]
            rotated = image.shape[1::-1] == (height, width)
            hint = " (was it annotated after rotating it by its EXIF orientation?)" if rotated else ""
            raise BadInput(
                f"image {self.path(index)} is {image.shape[1]} x {image.shape[0]} pixels, but {self.annotation_file} "
                f"says {width} x {height}{hint}: its boxes would be wrong"
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
        )

    def blank(self, index: int) -> Sample:
        """A black image of the annotated size, with its labels."""
        height, width = self.sizes[index].tolist()
        return self._labelled(index, np.zeros((height, width, 3), np.uint8))

    def _check_files(self) -> None:
        """Raise BadInput for links that leave the split's folder, and for missing images. Lists each folder once."""
        folder, existing = self.folder.resolve(), set()
        for parent in {os.path.dirname(name) for name in self._names.tolist()}:
            path = self.folder / os.fsdecode(parent)
            if not path.resolve().is_relative_to(folder):
                raise BadInput(f"{self.annotation_file}: {path} is a link that leads out of {self.folder}")
            if not path.is_dir():
                continue
            for entry in os.scandir(path):
                name = os.path.join(parent, os.fsencode(entry.name))
                existing.add(name)
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(folder):
                    existing.discard(name)
                    if name in self._names:
                        raise BadInput(f"image {entry.path} is a link that leads out of {self.folder}: refused")
        missing = [os.fsdecode(name) for name in self._names.tolist() if name not in existing]
        if len(missing) > self.skip_bad:
            examples = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise BadInput(
                f"{len(missing)} of {len(self)} images of {self.annotation_file} are not in {self.folder}: {examples}"
            )


def _targets(tables: Tables, selected: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, DetectionReport]:
    """(N, 4) float32 boxes, xyxy px, and (N,) int64 labels, sorted by image; (n + 1,) first row of each image."""
    position = np.full(len(tables.image_ids), -1)  # of each image among the selected ones
    position[selected] = np.arange(len(selected))
    in_subset = position[tables.image] >= 0
    rows = np.flatnonzero(in_subset & ~tables.crowd)
    rows = rows[np.argsort(position[tables.image[rows]], kind="stable")]

    image = tables.image[rows]
    corners = tables.boxes[rows].copy()
    corners[:, 2:] += corners[:, :2]
    limits = tables.sizes[image][:, [1, 0, 1, 0]]
    with np.errstate(invalid="ignore"):
        inside = corners.clip(0, limits)
        boxes = inside.astype(np.float32)
        usable = np.isfinite(tables.boxes[rows]).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        clipped = usable & (inside != corners).any(1)
    counts = np.bincount(position[image[usable]], minlength=len(selected))
    report = DetectionReport(
        images=len(selected),
        images_without_boxes=int((counts == 0).sum()),
        boxes=int(usable.sum()),
        crowd=int((in_subset & tables.crowd).sum()),
        degenerate=int((~usable).sum()),
        clipped=int(clipped.sum()),
    )
    return boxes[usable], tables.label[rows[usable]], np.concatenate([[0], np.cumsum(counts)]), report
