"""Detection data in COCO's layout: `ROOT/annotations/instances_{split}[2017].json`, images in `ROOT/{split}[2017]/`.

The annotations are kept as a few flat arrays, not as a dict per box: forked workers share those with their parent,
where counting references to 860,000 dicts would copy every page that they live on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from backbones.errors import BadInput, UserError
from data.batch import Draw, Sample
from data.coco_json import Tables, locate, parse, read
from data.images import read_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What was read, over the selected images. Boxes wholly outside their image count as degenerate."""

    images: int
    images_without_boxes: int
    boxes: int  # usable as training targets
    crowd: int  # excluded from the targets; the evaluator reads them from the JSON itself
    degenerate: int  # zero area or not finite: dropped
    clipped: int  # reached beyond the image


class CocoDetection:
    """Images with boxes; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    classes, category_ids: names and original ids in the order of the contiguous class index, which is by id.
    image_ids: (n,) int64; sizes: (n, 2) int64, annotated (height, width).
    annotation_file: the JSON, from which an evaluator reads ground truth, crowds included.
    report: a `Report` of what was dropped or clipped.

    `transform(sample, seed)` maps a `Sample` in original pixels to network pixels. `fraction` picks that share of the
    images, by `seed` alone. `skip_bad` allows so many images that cannot be read (see `__getitem__`).

    Raises `BadInput` naming the file, the cause, and the layout where that is what is wrong.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        transform: Callable[[Sample, int], Sample] | None = None,
        fraction: float = 1.0,
        seed: int = 0,
        skip_bad: int = 0,
    ) -> None:
        if not 0 < fraction <= 1:
            raise UserError(f"fraction must be above 0 and at most 1, not {fraction}")
        self.transform, self.skip_bad = transform, skip_bad
        self.annotation_file, self._folder = locate(Path(root), split)
        content = read(self.annotation_file)
        self._digest = hashlib.sha256(content).digest()
        tables = parse(content, self.annotation_file)
        del content

        total = len(tables.image_ids)
        chosen = np.arange(total)
        if fraction < 1:
            shuffled = np.random.default_rng(seed).permutation(total)
            chosen = np.sort(shuffled[: max(1, round(fraction * total))])
        self.classes, self.category_ids = tables.classes, tables.category_ids
        self.image_ids, self.sizes = tables.image_ids[chosen], tables.sizes[chosen]
        self._names = np.array([os.fsencode(tables.names[i]) for i in chosen])  # one block of bytes, no str objects
        self._boxes, self._labels, self._starts, self.report = _targets(tables, chosen)
        self._check_files()
        # One byte per image that all workers share, so that they spend one allowance together.
        self._bad = torch.zeros(len(chosen) if skip_bad else 0, dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the annotation file and the selected images' names and sizes in bytes."""
        digest = hashlib.sha256(self._digest)
        for index in range(len(self)):
            path = self.path(index)
            length = path.stat().st_size if path.exists() else -1
            digest.update(b"%s\0%d\0" % (self._names[index], length))
        return digest.hexdigest()

    @property
    def skipped(self) -> list[int]:
        """Ids of the images found unreadable so far, by any worker."""
        return self.image_ids[self._bad.numpy().nonzero()[0]].tolist()

    def boxes_by_image(self) -> tuple[np.ndarray, np.ndarray]:
        """All training boxes at once: (N,) index of each one's image, and (N, 4) x1 y1 x2 y2 in original pixels."""
        return np.repeat(np.arange(len(self)), np.diff(self._starts)), self._boxes

    def path(self, index: int) -> Path:
        """The image file."""
        return self._folder / os.fsdecode(self._names[index])

    def __getitem__(self, draw: int | Draw) -> Sample:
        """The transformed sample.

        A plain index is for evaluation: the transform always gets seed 0. A `Draw` is for training.
        Raises `BadInput` if the image is unreadable or not of the annotated size. While `skip_bad` lasts, the next
        readable image takes its place in training, and a blank one, marked not `readable`, in evaluation.
        """
        training = isinstance(draw, Draw)
        index, seed = draw if isinstance(draw, Draw) else (int(draw), 0)
        for candidate in range(index, index + (len(self) if training else 1)):
            try:
                sample = self._sample(candidate % len(self))
                break
            except BadInput as error:
                self._skip(candidate % len(self), error)
        else:
            if training:
                raise BadInput(f"none of the {len(self)} images in {self._folder} can be read")
            height, width = self.sizes[index].tolist()
            sample = replace(self._labelled(index, np.zeros((height, width, 3), np.uint8)), readable=False)
        return sample if self.transform is None else self.transform(sample, seed)

    def _sample(self, index: int) -> Sample:
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

    def _skip(self, index: int, error: BadInput) -> None:
        """Spend one of `skip_bad` on this image, or re-raise."""
        if not self.skip_bad:
            raise error
        if not self._bad[index]:
            self._bad[index] = 1
            log.warning("skipping: %s", error)
        if (count := len(self.skipped)) > self.skip_bad:
            raise BadInput(f"{count} images cannot be read, more than skip_bad={self.skip_bad}; the last: {error}")

    def _check_files(self) -> None:
        """Find links that lead out of the split's folder, and missing images, from one listing per folder."""
        folder, files = self._folder.resolve(), set()
        for parent in {os.path.dirname(name) for name in self._names.tolist()}:
            path = self._folder / os.fsdecode(parent)
            if not path.resolve().is_relative_to(folder):
                raise BadInput(f"{self.annotation_file}: {path} is a link that leads out of {self._folder}")
            if not path.is_dir():
                continue
            for entry in os.scandir(path):
                name = os.path.join(parent, os.fsencode(entry.name))
                files.add(name)
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(folder):
                    files.discard(name)
                    if name in self._names:
                        raise BadInput(f"{self.annotation_file}: image {entry.path} is a link out of {self._folder}")
        missing = [os.fsdecode(name) for name in self._names.tolist() if name not in files]
        if len(missing) > self.skip_bad:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise BadInput(
                f"{len(missing)} of {len(self)} images that {self.annotation_file} names are not in {self._folder}: "
                f"{shown}"
            )


def _targets(tables: Tables, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Report]:
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
    report = Report(
        images=len(chosen),
        images_without_boxes=int((counts == 0).sum()),
        boxes=int(keep.sum()),
        crowd=int((selected & tables.crowd).sum()),
        degenerate=int((~keep).sum()),
        clipped=int(clipped.sum()),
    )
    return boxes[keep], tables.label[rows[keep]], np.concatenate([[0], np.cumsum(counts)]), report
