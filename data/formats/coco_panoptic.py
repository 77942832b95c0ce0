"""COCO's panoptic annotations as class maps: a PNG of segments for each image, and a JSON file with their categories.

    ROOT/annotations/panoptic_{train,val}2017.json    ROOT/annotations/panoptic_{train,val}2017/*.png
    ROOT/{train,val}2017/*.jpg

The id of a segment is R + 256 G + 65536 B of its pixels. Pixels of id 0, void, have no class. Things and stuff are
classes alike. Mask values, for `ignore_index`, are the category ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import UNSET, Struct

from backbones.errors import BadInput
from data.batch import IGNORE
from data.columns import MaskColumns, digest_of
from data.formats import Format, Sniffed, Split
from data.formats import coco as boxes
from data.formats.coco_json import collector_paused, file_names
from data.formats.coco_json import read as read_tables
from data.formats.coco_masks import legend_of_categories, refuse_mask_files
from data.formats.coco_records import Records
from data.formats.masks import notes_on
from data.mask_files import color_codes, read_mask
from data.options import MaskOptions

PREFIX = "panoptic_"
VOID = 0  # id of pixels without a segment
LARGEST = (1 << 24) - 1


class _Annotation(Struct):
    image_id: Any = UNSET
    file_name: Any = UNSET
    segments_info: Any = UNSET


@dataclass(frozen=True)
class SegmentMaps:
    """index -> class map of a file of segment ids.

    Attributes:
        files: n masks.
        starts: (n + 1,) first segment of each image.
        ids: (N,) int64, sorted within each image.
        labels: (N,) uint8, class index of each segment.
    """

    files: list[Path]
    starts: np.ndarray
    ids: np.ndarray
    labels: np.ndarray

    def __call__(self, index: int) -> np.ndarray:
        """(H, W) uint8. Raises BadInput if the file cannot be read or has a segment that is not listed."""
        own = slice(self.starts[index], self.starts[index + 1])
        known = np.concatenate([[VOID], self.ids[own]])
        labels = np.concatenate([[np.uint8(IGNORE)], self.labels[own]])
        readings = _ids(self.files[index])
        for ids in readings:
            position = np.searchsorted(known, ids).clip(max=len(known) - 1)
            if (known[position] == ids).all():
                return labels[position]
        ids = readings[0]
        segment = int(ids[~np.isin(ids, known)][0])
        raise BadInput(
            f"mask {self.files[index]} has {int((ids == segment).sum())} pixels of segment {segment}, which its "
            "segments_info does not list"
        )


def sniff(root: Path) -> Sniffed | None:
    """Files annotations/panoptic_*.json with a folder of the same name; or one such file."""
    files = _files(root)
    return Sniffed(0.92, f"{next(iter(files.values())).name} and its folder of masks exist") if files else None


def splits(root: Path) -> list[str]:
    """Names of the splits that have such a file."""
    return list(_files(root)) if root.is_dir() else []


@collector_paused()
def read(split: Split, options: MaskOptions) -> MaskColumns:
    """The annotated images of one file."""
    refuse_mask_files(options)
    file = _files(split.root)[split.name] if split.name else split.root
    masks = _folder(file)
    if masks is None:
        raise BadInput(f"{file} needs the folder {file.with_suffix('')} with its masks")
    records = Records(read_tables(file, _Annotation), file)
    ids = records.unique("categories", "id")
    names = [str(name) for name in records.values("categories", "name")]
    records.refuse((ids < 1) | (ids > 0xFFFF), "categories", "an id outside of 1 to 65535")
    legend = legend_of_categories(file, ids.tolist(), names, options)
    image = records.positions("image_id", records.unique("images", "id"))
    if len(np.unique(image)) < len(image) or not len(image):
        raise BadInput(f"{file} has {'several annotations for one image' if len(image) else 'no annotations'}")
    order = np.argsort(image)
    all_names = file_names(records.values("images", "file_name"), file)
    mask_names = file_names(records.values("annotations", "file_name"), file)
    image_names = [all_names[i] for i in image[order]]
    segments = [
        _segments(value, index, records) for index, value in enumerate(records.values("annotations", "segments_info"))
    ]
    class_of = {int(number): legend.values[int(number)] for number in ids}
    own = [segments[i] for i in order]
    starts = np.cumsum([0, *(len(part) for part in own)])
    table = np.concatenate([np.zeros((0, 2), np.int64), *own])
    unknown = ~np.isin(table[:, 1], ids)
    if unknown.any():
        raise BadInput(f"{file} has a segment of category {table[unknown][0, 1]}, which the file does not list")
    labels = np.array([class_of[number] for number in table[:, 1].tolist()], np.uint8)
    files = [masks / mask_names[i] for i in order]
    left = sorted(set(range(len(all_names))) - set(image.tolist()))
    return MaskColumns(
        source=file,
        folder=boxes.image_folder(file, image_names, split),
        names=image_names,
        image_ids=records.unique("images", "id")[image[order]],
        classes=legend.classes,
        label_digest=digest_of(image_names, legend.classes, starts, table[:, 0], labels),
        left_out={"they have no mask": [all_names[i] for i in left]} if left else {},
        class_map=SegmentMaps(files, starts, table[:, 0], labels),
        mask_files=files,
        ignored=legend.ignored,
        notes=notes_on(legend),
    )


FORMAT = Format(
    name="coco-panoptic",
    kind="masks",
    layout="""
        ROOT/annotations/panoptic_train2017.json, ROOT/annotations/panoptic_train2017/ with PNG masks, and images in
        ROOT/train2017/""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _files(root: Path) -> dict[str, Path]:
    """The annotation file of each split, where the folder of its masks exists."""
    if root.is_file():
        return {"": root} if root.name.startswith(PREFIX) and root.suffix == ".json" and _folder(root) else {}
    found = [*sorted((root / "annotations").glob(f"{PREFIX}*.json")), *sorted(root.glob(f"{PREFIX}*.json"))]
    return {file.stem.removeprefix(PREFIX): file for file in reversed(found) if _folder(file) is not None}


def _folder(file: Path) -> Path | None:
    """The folder of the masks: beside the file, or one level up."""
    candidates = (file.with_suffix(""), file.parent.parent / file.stem)
    return next((folder for folder in candidates if folder.is_dir()), None)


def _segments(value: Any, index: int, records: Records) -> np.ndarray:
    """(n, 2) int64, id and category of the segments of an image, sorted by id."""
    try:
        pairs = [(segment["id"], segment["category_id"]) for segment in value]
        found = np.array(sorted(pairs), np.int64).reshape(len(pairs), 2)
        whole = all(isinstance(number, int) for pair in pairs for number in pair)
    except (TypeError, KeyError, ValueError, OverflowError):
        whole, found = False, np.zeros((0, 2), np.int64)
    if not whole or (found[:, 0] <= VOID).any() or (found[:, 0] > LARGEST).any() or (np.diff(found[:, 0]) == 0).any():
        raise BadInput(
            f"{records.file}: annotations[{index}] has segments_info that is not a list of segments with an id from 1 "
            f"to {LARGEST} and a category_id"
        )
    return found


def _ids(file: Path) -> list[np.ndarray]:
    """(H, W) int64 segment ids of a mask: of its colours or, for one channel, also its values."""
    stored = read_mask(file)
    if stored.lossy:
        raise BadInput(f"mask {file} is a {stored.lossy} file: lossy compression changes the ids of segments")
    if stored.values is None:
        assert stored.colors is not None
        return [color_codes(stored.colors[..., ::-1]).astype(np.int64)]
    values = stored.values.astype(np.int64)
    if stored.palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(stored.palette)] = stored.palette
        return [color_codes(colors[stored.values][..., ::-1]).astype(np.int64)]
    return [values] if stored.bits == 16 else [values * 0x010101, values]  # a colour with equal channels first
