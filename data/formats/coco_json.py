"""Parse a COCO JSON file into columns. Every value is checked here, and nothing else reads the file."""

from __future__ import annotations

import codecs
import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Struct

from backbones.errors import BadInput
from data.columns import BoxColumns, digest_of
from data.formats.coco_complete import complete_classes
from data.formats.coco_records import Records
from data.images import MAX_PIXELS


@contextmanager
def collector_paused() -> Iterator[None]:
    """Within this context, Python does not search for cycles. Decoded JSON has none, and each search visits it all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@collector_paused()
def parse(file: Path, boxes_are: Literal["xyxy", "xywh", "cxcywh"] = "xywh") -> BoxColumns:
    """The content of a COCO JSON file as columns; `folder` is the folder of the file.

    Classes are sorted by id; two classes may have the same name. The category that Roboflow adds is left out. COCO's
    boxes are xywh; some files have others.

    Raises BadInput with the file and the cause if it is malformed.
    """
    return columns_of(Records(read(file), file), boxes_are)


def columns_of(records: Records, boxes_are: Literal["xyxy", "xywh", "cxcywh"] = "xywh") -> BoxColumns:
    """The same from the records of a file."""
    file = records.file
    image_ids = records.unique("images", "id")
    sizes = np.stack([records.integers("images", side, default=0) for side in ("height", "width")], axis=1)
    annotated = records.has("images", "height") & records.has("images", "width")
    impossible = annotated & ((sizes < 1).any(1) | (sizes.prod(1) > MAX_PIXELS))
    records.refuse(impossible, "images", "an impossible width or height")
    names = file_names(_names(records), file)
    ids = records.unique("categories", "id")
    by_id = np.argsort(ids)
    if has_phantom(records, ids):
        by_id = by_id[1:]
    category_names = records.names_of_categories()
    classes = tuple(category_names[i] for i in by_id)
    boxes = corners(records.boxes(), boxes_are)
    image = records.positions("image_id", image_ids)
    label = records.positions("category_id", ids[by_id])
    crowd = records.integers("annotations", "iscrowd", default=0) != 0
    areas = records.areas(boxes, crowd)
    complete = complete_classes(records, ids[by_id], image, label, boxes)
    labels = (names, image_ids, sizes, classes, ids[by_id], image, label, boxes, crowd, areas)
    return BoxColumns(
        source=file,
        folder=file.parent,
        names=names,
        image_ids=image_ids,
        classes=classes,
        label_digest=digest_of(*labels) if complete is None else digest_of(*labels, complete),
        sizes=np.where(annotated[:, None], sizes, 0),
        category_ids=tuple(ids[by_id].tolist()),
        image=image,
        label=label,
        boxes=boxes,
        crowd=crowd,
        difficult=np.zeros(len(boxes), bool),
        areas=areas,
        complete=complete,
    )


def _names(records: Records) -> list[Any]:
    """The files of the images. LVIS has COCO's addresses in place of names, as in .../train2017/000000391895.jpg."""
    if records.has("images", "file_name").any() or not records.has("images", "coco_url").all():
        return records.values("images", "file_name")
    addresses = records.values("images", "coco_url")
    return ["/".join(url.split("/")[-2:]) if isinstance(url, str) else url for url in addresses]


def has_phantom(records: Records, ids: np.ndarray) -> bool:
    """Whether Roboflow added its category 0 without boxes, whose name is the supercategory of all others."""
    if len(ids) < 2 or ids.min() != 0:
        return False
    first = int(ids.argmin())
    name = records.values("categories", "name")[first]
    above = records.values("categories", "supercategory", default=None)
    is_above = all(other == name for i, other in enumerate(above) if i != first)
    return is_above and not (records.integers("annotations", "category_id") == 0).any()


def corners(boxes: np.ndarray, are: Literal["xyxy", "xywh", "cxcywh"]) -> np.ndarray:
    """(N, 4) boxes as x1 y1 x2 y2."""
    boxes = boxes.copy()
    with np.errstate(invalid="ignore", over="ignore"):
        if are == "cxcywh":
            boxes[:, :2] -= boxes[:, 2:] / 2
        if are != "xyxy":
            boxes[:, 2:] += boxes[:, :2]
    return boxes


class _Image(Struct, gc=False):
    id: Any = UNSET
    file_name: Any = UNSET
    coco_url: Any = UNSET
    height: Any = UNSET
    width: Any = UNSET
    neg_category_ids: Any = UNSET
    not_exhaustive_category_ids: Any = UNSET


class _Annotation(Struct, gc=False):  # without cycles: the collector would visit a million of them
    image_id: Any = UNSET
    category_id: Any = UNSET
    bbox: Any = UNSET
    area: Any = UNSET
    iscrowd: Any = UNSET


class _Category(Struct, gc=False):
    id: Any = UNSET
    name: Any = UNSET
    supercategory: Any = UNSET


TABLES = ("images", "annotations", "categories")


def read(file: Path, annotation: type[Struct] = _Annotation) -> dict[str, list[Any]]:
    """The records of the three lists of a COCO file, by list. Other fields, such as segmentations, are not decoded.

    Args:
        file: the file.
        annotation: the fields of annotations to decode. A field of type `msgspec.Raw` holds the JSON text of its value,
            or the value itself if the file is not strict JSON.

    Raises BadInput if the file cannot be read or is not a COCO file.
    """
    kinds: dict[str, type[Struct]] = dict(zip(TABLES, (_Image, annotation, _Category), strict=True))
    document_type = msgspec.defstruct("Document", [(name, list[kind]) for name, kind in kinds.items()])  # type: ignore[valid-type]
    try:
        content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise BadInput(f"cannot read {file}: {error.strerror}") from error
    try:
        document = msgspec.json.decode(content, type=document_type)
        tables = {name: getattr(document, name) for name in TABLES}
    except (msgspec.MsgspecError, RecursionError, ValueError):
        # Python's parser also accepts NaN and Infinity, which Python's writer produces, and it locates errors.
        tables = _read_slowly(content, file, kinds)
    for name in ("images", "categories"):
        if not tables[name]:
            raise BadInput(f"{file} lists no {name}")
    return tables


def _read_slowly(content: bytes, file: Path, kinds: dict[str, type[Struct]]) -> dict[str, list[Any]]:
    def without_segmentation(record: dict[str, Any]) -> dict[str, Any]:
        record.pop("segmentation", None)  # 90% of COCO's file; dropped while parsing, to save memory
        return record

    needed = "segmentation" in kinds["annotations"].__struct_fields__
    try:
        document = json.loads(content, object_hook=None if needed else without_segmentation)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadInput(f"{file} is a JSON {type(document).__name__}, not an object with images and annotations")
    tables: dict[str, list[Any]] = {}
    for name, kind in kinds.items():
        records = document.get(name)
        if not isinstance(records, list):
            raise BadInput(f"{file} has no list '{name}'; a COCO instances file has images, annotations and categories")
        tables[name] = []
        for index, record in enumerate(records):
            if not isinstance(record, dict):
                raise BadInput(f"{file}: {name}[{index}] is {str(record)[:60]!r}, not an object")
            tables[name].append(kind(**{field: record[field] for field in kind.__struct_fields__ if field in record}))
    return tables


def file_names(values: Sequence[Any], file: Path) -> list[str]:
    """File names as relative paths with slashes. Raises BadInput for a name that could leave the image folder."""
    names = [name.replace("\\", "/") if isinstance(name, str) else name for name in values]
    for name in names:
        if not is_safe(name):
            raise BadInput(
                f"{file}: file_name {name!r} is not a relative path inside the image folder: refused, not read"
            )
    return names


def is_safe(name: Any) -> bool:
    """Whether the text of a file name stays within its folder. Links are checked later, on disk."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    if name[0].isalnum() and ".." not in name and ":" not in name and name[-1].isalnum():
        return True  # nearly all names; the path below is ten times slower
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != "" and name[1:3] != ":/"
