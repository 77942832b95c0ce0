"""Detection data in COCO's layout: `ROOT/annotations/instances_{split}[2017].json`, images in `ROOT/{split}[2017]/`.

The annotations are kept as a few flat arrays, not as a dict per box: forked workers share those with their parent,
where counting references to 860,000 dicts would copy every page that they live on.
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
from data.reader import Fraction, ImageReader, Transform, share


@dataclass(frozen=True)
class DetectionReport:
    """What was read, over the selected images. Boxes wholly outside their image count as degenerate."""

    images: int
    images_without_boxes: int
    boxes: int  # usable as training targets
    crowd: int  # excluded from the targets; the evaluator reads them from the JSON itself
    degenerate: int  # zero area or not finite: dropped
    clipped: int  # reached beyond the image


class CocoDetection(ImageReader):
    """Images with boxes; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    classes, category_ids: names and original ids in the order of the contiguous class index, which is by id.
    image_ids: (n,) int64; sizes: (n, 2) int64, annotated (height, width).
    annotation_file: the JSON, from which an evaluator reads ground truth, crowds included.
    report: a `DetectionReport` of what was dropped or clipped.

    `fraction` picks that share of the images, by `seed` alone. See `ImageReader` for the rest.

    Raises `BadInput` naming the file, the cause, and the layout where that is what is wrong.
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
        told = hashlib.sha256(content).digest()
        tables = parse(content, self.annotation_file)
        del content

        chosen = share(len(tables.image_ids), fraction, seed)
        self.classes, self.category_ids = tables.classes, tables.category_ids
        super().__init__(folder, [tables.names[i] for i in chosen], tables.image_ids[chosen], transform, skip_bad, told)
        self.sizes = tables.sizes[chosen]
        self._boxes, self._labels, self._starts, self.report = _targets(tables, chosen)
        self._check_files()

    def boxes_by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """All training boxes at once: (N,) index of each one's image, and (N, 4) x1 y1 x2 y2 in original pixels."""
        return np.repeat(np.arange(len(self)), np.diff(self._starts)), self._boxes

    def read(self, index: int) -> Sample:
        """The labelled image. Raises BadInput if it is unreadable or not of the annotated size."""
        image = read_image(self.path(index))
        if image.shape[:2] != tuple(self.sizes[index]):
            height, width = self.sizes[index]
            turned = image.shape[1::-1] == (height, width)
            hint = " (was it annotated after turning it by its EXIF orientation?)" if turned else ""
            raise BadInput(
                f"image {self.path(index)} is {image.shape[1]} x {image.shape[0]} pixels, but {self.annotation_file} "
                f"says {width} x {height}{hint}: its boxes would be misplaced"
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
        """Find links that lead out of the split's folder, and missing images, from one listing per folder."""
        folder, files = self.folder.resolve(), set()
        for parent in {os.path.dirname(name) for name in self._names.tolist()}:
            path = self.folder / os.fsdecode(parent)
            if not path.resolve().is_relative_to(folder):
                raise BadInput(f"{self.annotation_file}: {path} is a link that leads out of {self.folder}")
            if not path.is_dir():
                continue
            for entry in os.scandir(path):
                name = os.path.join(parent, os.fsencode(entry.name))
                files.add(name)
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(folder):
                    files.discard(name)
                    if name in self._names:
                        raise BadInput(f"{self.annotation_file}: image {entry.path} is a link out of {self.folder}")
        missing = [os.fsdecode(name) for name in self._names.tolist() if name not in files]
        if len(missing) > self.skip_bad:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise BadInput(
                f"{len(missing)} of {len(self)} images that {self.annotation_file} names are not in {self.folder}: "
                f"{shown}"
            )


def _targets(tables: Tables, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, DetectionReport]:
    """Boxes (N, 4) float32 xyxy and labels (N,) int64, sorted by image, with starts (n + 1,) of each image's rows."""
    place = np.full(len(tables.image_ids), -1)
    place[chosen] = np.arange(len(chosen))
    selected = place[tables.image] >= 0
    targets = selected & ~tables.crowd
    rows = np.flatnonzero(targets)
    rows = rows[np.argsort(place[tables.image[rows]], kind="stable")]

    image = tables.image[rows]
    corners = tables.boxes[rows].copy()
    corners[:, 2:] += corners[:, :2]
    limits = tables.sizes[image][:, [1, 0, 1, 0]]
    with np.errstate(invalid="ignore"):
        inside = corners.clip(0, limits)
        boxes = inside.astype(np.float32)
        keep = np.isfinite(tables.boxes[rows]).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
        clipped = keep & (inside != corners).any(1)
    counts = np.bincount(place[image[keep]], minlength=len(chosen))
    report = DetectionReport(
        images=len(chosen),
        images_without_boxes=int((counts == 0).sum()),
        boxes=int(keep.sum()),
        crowd=int((selected & tables.crowd).sum()),
        degenerate=int((~keep).sum()),
        clipped=int(clipped.sum()),
    )
    return boxes[keep], tables.label[rows[keep]], np.concatenate([[0], np.cumsum(counts)]), report
