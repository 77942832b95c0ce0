"""Detection data in COCO's layout: `ROOT/annotations/instances_{split}[2017].json`, images in `ROOT/{split}[2017]/`.

The annotations are kept as a few flat arrays, not as a dict per box: forked workers share those with their parent,
where counting references to 860,000 dicts would copy every page that they live on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from backbones.errors import BadInput, UserError
from data.batch import Draw, Sample
from data.images import MAX_PIXELS, read_image

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
        self.annotation_file, self._folder = _locate(Path(root), split)
        content = _read(self.annotation_file)
        self._digest = hashlib.sha256(content).digest()
        tables = _parse(content, self.annotation_file)
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


@dataclass(frozen=True)
class _Tables:
    """The JSON as columns; `image` and `label` index the first two groups."""

    image_ids: np.ndarray
    sizes: np.ndarray
    names: list[str]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray  # (N, 4) float64: x, y, width, height in original pixels
    crowd: np.ndarray


def _locate(root: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and image folder of a split."""
    layout = f"expected {root}/annotations/instances_{split}.json (or {split}2017) with its images in {root}/{split}/"
    if not root.is_dir():
        raise BadInput(f"no data set at {root}: there is no such folder; {layout}")
    found = []
    for kind, pattern in (("file", "annotations/instances_{}.json"), ("folder", "{}")):
        candidates = [root / pattern.format(split + year) for year in ("", "2017")]
        existing = [path for path in candidates if (path.is_dir() if kind == "folder" else path.is_file())]
        if not existing:
            raise BadInput(f"data set {root} has no {kind} {candidates[0]} or {candidates[1].name}; {layout}")
        found.append(existing[0])
    return found[0], found[1]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error


def _parse(content: bytes, file: Path) -> _Tables:
    """Check the JSON and turn it into columns."""

    def slim(record: dict[str, Any]) -> dict[str, Any]:
        record.pop("segmentation", None)  # nine tenths of COCO; dropped as it is read, it never adds up
        return record

    try:
        document = json.loads(content, object_hook=slim)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadInput(f"{file} holds a JSON {type(document).__name__}, not an object with images and annotations")

    columns = _Columns(document, file)
    image_ids = columns.unique("images", "id")
    heights, widths = columns.integers("images", "height"), columns.integers("images", "width")
    sizes = np.stack([heights, widths], axis=1)
    _refuse((sizes < 1).any(1) | (sizes.prod(1) > MAX_PIXELS), file, "images", "an impossible width or height")
    names = columns.values("images", "file_name")
    unsafe = np.array([not _is_safe(name) for name in names], bool)
    if unsafe.any():
        name = names[int(unsafe.argmax())]
        raise BadInput(f"{file}: file_name {name!r} is not a relative path inside the image folder: refused, not read")

    ids = columns.unique("categories", "id")
    by_id = np.argsort(ids)
    category_names = columns.values("categories", "name")
    columns.unique("annotations", "id")
    boxes = columns.boxes()
    return _Tables(
        image_ids=image_ids,
        sizes=sizes,
        names=names,
        classes=tuple(str(category_names[i]) for i in by_id),
        category_ids=tuple(ids[by_id].tolist()),
        image=_index(columns.integers("annotations", "image_id"), image_ids, file, "image_id"),
        label=_index(columns.integers("annotations", "category_id"), ids[by_id], file, "category_id"),
        boxes=boxes,
        crowd=columns.integers("annotations", "iscrowd", default=0) != 0,
    )


class _Columns:
    """Checked access to the JSON's lists of records, one key at a time."""

    def __init__(self, document: dict[str, Any], file: Path) -> None:
        self.document, self.file = document, file
        for name in ("images", "annotations", "categories"):
            records = document.get(name)
            if not isinstance(records, list):
                raise BadInput(
                    f"{file} has no list '{name}'; a COCO instances file holds images, annotations, categories"
                )
            if not records and name != "annotations":
                raise BadInput(f"{file} lists no {name}")

    def values(self, table: str, key: str, default: Any = None) -> list[Any]:
        records = self.document[table]
        try:
            if default is not None:
                return [record.get(key, default) for record in records]
            return [record[key] for record in records]
        except (KeyError, TypeError, AttributeError):
            at = next(i for i, record in enumerate(records) if not isinstance(record, dict) or key not in record)
            raise BadInput(f"{self.file}: {table}[{at}] has no '{key}'") from None

    def integers(self, table: str, key: str, default: int | None = None) -> np.ndarray:
        values = self.values(table, key, default)
        column = np.array(values) if values else np.zeros(0, np.int64)
        whole = column.dtype.kind in "biu" or (column.dtype.kind == "f" and bool((column == np.round(column)).all()))
        if not whole or column.ndim != 1:
            at = next((i for i, v in enumerate(values) if not isinstance(v, int)), 0)
            raise BadInput(f"{self.file}: {table}[{at}] has {key} {values[at]!r}, not a whole number")
        return column.astype(np.int64)

    def unique(self, table: str, key: str) -> np.ndarray:
        column = self.integers(table, key)
        values, counts = np.unique(column, return_counts=True)
        if len(values) < len(column):
            raise BadInput(f"{self.file}: {key} {values[counts > 1][0]} occurs more than once in {table}")
        return column

    def boxes(self) -> np.ndarray:
        values = self.values("annotations", "bbox")
        try:
            return np.array(values, np.float64).reshape(len(values), 4)
        except (ValueError, TypeError):
            at = next((i for i, v in enumerate(values) if not _is_box(v)), 0)
            raise BadInput(
                f"{self.file}: annotations[{at}] has bbox {values[at]!r}, not four numbers x, y, width, height"
            ) from None


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(v, (int, float)) for v in value)


def _is_safe(name: Any) -> bool:
    """Whether a file name stays in its folder, as far as its text can tell; links are looked at later."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != ""


def _refuse(bad: np.ndarray, file: Path, table: str, what: str) -> None:
    if bad.any():
        raise BadInput(f"{file}: {table}[{int(bad.argmax())}] has {what}")


def _index(ids: np.ndarray, known: np.ndarray, file: Path, key: str) -> np.ndarray:
    """Positions of `ids` in `known`, which is not empty."""
    order = np.argsort(known)
    place = order[np.searchsorted(known[order], ids).clip(max=len(known) - 1)]
    wrong = known[place] != ids
    if wrong.any():
        _refuse(wrong, file, "annotations", f"{key} {ids[wrong][0]}, which the file does not list")
    return place


def _targets(tables: _Tables, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Report]:
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
