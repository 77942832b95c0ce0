"""COCO annotation files as flat, validated columns. A malformed file raises one error with the file and the cause."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from backbones.errors import BadInput
from data.images import MAX_PIXELS

LARGEST = 2**53  # largest integer up to which float64 is exact; JSON does not distinguish 1 from 1.0


@dataclass(frozen=True)
class Tables:
    """The JSON as columns for n images, K categories and N annotations."""

    image_ids: np.ndarray  # (n,) int64
    sizes: np.ndarray  # (n, 2) int64: height, width
    names: list[str]  # n files, relative to the image folder
    classes: tuple[str, ...]  # K names, sorted by category id
    category_ids: tuple[int, ...]  # K ids, sorted
    image: np.ndarray  # (N,) int64: index into the images
    label: np.ndarray  # (N,) int64: index into the categories
    boxes: np.ndarray  # (N, 4) float64: x, y, width, height in original pixels
    crowd: np.ndarray  # (N,) bool


def locate(root: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and image folder of a split. Raises BadInput with the expected layout if one is missing."""
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


def read(file: Path) -> bytes:
    """The content of the file. Raises BadInput if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error


def parse(content: bytes, file: Path) -> Tables:
    """The content of `file` as columns. Raises BadInput with the file and the cause if it is malformed."""

    def without_segmentation(record: dict[str, Any]) -> dict[str, Any]:
        record.pop("segmentation", None)  # 90% of COCO's file; dropped while parsing, to save memory
        return record

    try:
        document = json.loads(content, object_hook=without_segmentation)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadInput(f"{file} is a JSON {type(document).__name__}, not an object with images and annotations")

    columns = _Columns(document, file)
    image_ids = columns.unique("images", "id")
    heights, widths = columns.integers("images", "height"), columns.integers("images", "width")
    sizes = np.stack([heights, widths], axis=1)
    _check_rows((sizes < 1).any(1) | (sizes.prod(1) > MAX_PIXELS), file, "images", "an impossible width or height")
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
    return Tables(
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
    """Validated columns: the values of one key in a list of records. Raises BadInput with the file and the record."""

    def __init__(self, document: dict[str, Any], file: Path) -> None:
        self.document, self.file = document, file
        for name in ("images", "annotations", "categories"):
            records = document.get(name)
            if not isinstance(records, list):
                raise BadInput(
                    f"{file} has no list '{name}'; a COCO instances file has images, annotations and categories"
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
        try:
            column = np.array(values) if values else np.zeros(0, np.int64)
        except ValueError:  # some values are lists of different lengths
            column = np.array([None])
        whole = column.dtype.kind in "biu" or (column.dtype.kind == "f" and bool((column == np.round(column)).all()))
        if not whole or column.ndim != 1 or (np.abs(column) > LARGEST).any():
            at = next((i for i, v in enumerate(values) if not isinstance(v, int) or abs(v) > LARGEST), 0)
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
        except (ValueError, TypeError, OverflowError):
            at = next((i for i, v in enumerate(values) if not _is_box(v)), 0)
            raise BadInput(
                f"{self.file}: annotations[{at}] has bbox {values[at]!r}, not four numbers x, y, width, height"
            ) from None


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(v, (int, float)) for v in value)


def _is_safe(name: Any) -> bool:
    """Whether the text of a file name stays within its folder. Links are checked later, on disk."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != ""


def _check_rows(bad: np.ndarray, file: Path, table: str, what: str) -> None:
    """Raise BadInput for the first record that is bad."""
    if bad.any():
        raise BadInput(f"{file}: {table}[{int(bad.argmax())}] has {what}")


def _index(ids: np.ndarray, known: np.ndarray, file: Path, key: str) -> np.ndarray:
    """Positions of `ids` in `known`, which is not empty. Raises BadInput if one is not in it."""
    order = np.argsort(known)
    position = order[np.searchsorted(known[order], ids).clip(max=len(known) - 1)]
    unknown = known[position] != ids
    if unknown.any():
        _check_rows(unknown, file, "annotations", f"{key} {ids[unknown][0]}, which the file does not list")
    return position
