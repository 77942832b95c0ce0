"""Boxes of Hugging Face data sets. Their type does not say what the four numbers of a box mean."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns, digest_of
from data.formats import Split
from data.formats.coco_json import corners
from data.formats.folders import indexed
from data.formats.huggingface_features import OBJECT_CLASSES, usual
from data.formats.huggingface_rows import reading
from data.formats.huggingface_split import Opened, class_indices, class_texts, open_split
from data.options import BoxOptions
from data.scan import sample_of, scan

Meaning = Literal["xyxy", "xywh", "cxcywh"]
MEANINGS: tuple[Meaning, ...] = ("xywh", "xyxy", "cxcywh")
DESCRIBED = {
    "xyxy": "two corners",
    "xywh": "a corner with width and height",
    "cxcywh": "the centre with width and height",
}
SLACK = 1.0  # px by which a box may exceed its image, since tools round
FRACTION_SLACK = 0.01  # the same for boxes as fractions of the image size
MOST, FEW = 0.99, 0.9  # shares of boxes that fit, where no meaning fits all boxes: of the right one, and of the others
IMAGE_IDS = ("imageid", "id")
ONE_CLASS = "object"  # class of boxes without classes

log = logging.getLogger(__name__)


class Objects(NamedTuple):
    """N boxes.

    Attributes:
        image: (N,) int64, index of the image.
        boxes: (N, 4) float64, the numbers as stored.
        others: other columns of the objects -> pyarrow Array of N values.
    """

    image: np.ndarray
    boxes: np.ndarray
    others: dict[str, Any]


def read_boxes(split: Split, options: BoxOptions) -> BoxColumns:
    """Images with the boxes in a column such as `objects`."""
    opened = open_split(split)
    if opened.features.boxes is None:
        raise BadInput(f"{opened.source} has no column of boxes: its columns are {opened.features.described()}")
    objects = _objects(opened)
    classes, label, ids = _classes(opened, objects)
    count = len(objects.boxes)
    columns = BoxColumns(
        source=opened.source,
        folder=opened.folder,
        names=opened.names,
        image_ids=_image_ids(opened),
        classes=classes,
        label_digest=digest_of(classes, label, objects.image, objects.boxes, *opened.identity),
        content=opened.content,
        sizes=_sizes(opened),
        category_ids=ids,
        image=objects.image,
        label=label,
        boxes=objects.boxes,
        crowd=_flags(objects, ("iscrowd", "is_crowd", "crowd", "is_group_of"), opened.source),
        difficult=_flags(objects, ("difficult", "is_difficult"), opened.source),
        areas=np.full(count, np.nan),
    )
    columns = _in_pixels(columns, options)
    return replace(columns, areas=_areas(objects, columns))


def recognise(values: np.ndarray, limits: np.ndarray, slack: float, source: Path) -> Meaning:
    """The only meaning with which all boxes lie in their images, or nearly all while the others fit clearly fewer.

    Args:
        values: (N, 4) finite numbers.
        limits: (N, 2) width and height of the image of each box; infinite if unknown.
        slack: by which boxes may exceed the image.
        source: for messages.

    Raises BadInput if several meanings fit, or none.
    """
    shares: dict[Meaning, float] = {}
    for meaning in MEANINGS:
        boxes = corners(values, meaning)
        fits = (boxes[:, :2] >= -slack).all(1) & (boxes[:, 2:] <= limits + slack).all(1)
        shares[meaning] = float((fits & (boxes[:, 2:] >= boxes[:, :2]).all(1)).mean())
    ranked = sorted(MEANINGS, key=lambda meaning: -shares[meaning])
    best, second = shares[ranked[0]], shares[ranked[1]]
    if (best == 1 and second < 1) or (best >= MOST and second <= FEW):
        return ranked[0]
    fitting = [f"{DESCRIBED[name]} ({name}): {100 * shares[name]:.1f}%" for name in ranked]
    raise BadInput(
        f"{source}: what the four numbers of a box mean is unclear. Boxes inside of their image, if read as "
        f"{'; as '.join(fitting)}. Name it, as in `boxes={ranked[0]!r}`",
        settings=("data.boxes",),
    )


def _in_pixels(columns: BoxColumns, options: BoxOptions) -> BoxColumns:
    """The columns with boxes as x1 y1 x2 y2 in pixels."""
    known = np.isfinite(columns.boxes).all(1)
    values, image = columns.boxes[known], columns.image[known]
    if not len(values):
        return columns
    fractions = bool(np.abs(values).max() <= 1 + FRACTION_SLACK)
    unknown = np.flatnonzero((columns.sizes < 1).any(1))
    sizes_of_files = False
    if fractions and len(unknown):
        headers = scan(columns, unknown)
        sizes = columns.sizes.copy()
        sizes[unknown] = headers.upright_sizes if options.exif == "apply" else headers.sizes
        columns, sizes_of_files = replace(columns, sizes=sizes), True
    if fractions:
        limits, slack = np.ones((len(values), 2)), FRACTION_SLACK
    else:
        limits, slack = _limits(columns)[image], SLACK
    meaning = options.boxes or recognise(values, limits, slack, columns.source)
    if options.boxes is None:
        log.info("%s: the numbers of a box are %s", columns.source, DESCRIBED[meaning])
    boxes = corners(columns.boxes, meaning)
    if fractions:
        boxes = boxes * columns.sizes[columns.image][:, [1, 0, 1, 0]]
    return replace(columns, boxes=boxes, sizes_of_files=sizes_of_files)


def _limits(columns: BoxColumns) -> np.ndarray:
    """(n, 2) largest x and y in each image, in whichever orientation it was labelled; infinite if unknown."""
    unknown = np.flatnonzero((columns.sizes < 1).any(1))
    limits = np.where(columns.sizes < 1, np.inf, columns.sizes)[:, ::-1]
    if len(unknown):
        headers = scan(columns, np.intersect1d(unknown, sample_of(columns)))
        sizes = np.where(headers.sizes < 1, np.inf, headers.sizes)[:, ::-1]
        limits[headers.index] = np.where(headers.turned[:, None], sizes.max(1, keepdims=True), sizes)
    return limits


def _objects(opened: Opened) -> Objects:
    """The boxes and the other columns of the objects. Raises BadInput for rows whose columns differ in length."""
    import pyarrow as pa
    import pyarrow.compute as pc

    source, features = opened.source, opened.features
    name = str(features.boxes)
    lists = _lists(opened, name)
    with reading(source):
        counts = np.asarray(pc.fill_null(pc.list_value_length(lists), 0), np.int64)
        values = pc.list_flatten(lists)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0), np.int64)
        numbers = pc.list_flatten(values)
        if not (pa.types.is_integer(numbers.type) or pa.types.is_floating(numbers.type)):
            raise BadInput(f"{source}: the boxes in its column {name} are lists of {numbers.type}, not of numbers")
    image = np.repeat(np.arange(len(counts)), counts)
    if (lengths != 4).any():
        wrong = int((lengths != 4).argmax())
        raise BadInput(f"{source}: row {image[wrong]} has a box of {lengths[wrong]} numbers, not 4")
    with reading(source):
        boxes = np.asarray(pc.fill_null(pc.cast(numbers, pa.float64()), np.nan)).reshape(-1, 4)
    others = {}
    for other, column in features.object_columns.items():
        own = _lists(opened, column)
        with reading(source):
            own_counts = np.asarray(pc.fill_null(pc.list_value_length(own), 0), np.int64)
            if (own_counts == counts).all():
                others[other] = pc.list_flatten(own)
    return Objects(image, boxes, others)


def _lists(opened: Opened, name: str) -> Any:
    """A column with a list for each row: also of a field in a list of records."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column, _, inner = name.partition(".")
    with reading(opened.source):
        values = opened.rows.column(column)
        if not inner:
            return values
        if pa.types.is_struct(values.type):
            return pc.struct_field(values, inner)
        lengths = np.asarray(pc.fill_null(pc.list_value_length(values), 0), np.int64)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
        return pa.LargeListArray.from_arrays(offsets, pc.struct_field(pc.list_flatten(values), inner))


def _classes(opened: Opened, objects: Objects) -> tuple[tuple[str, ...], np.ndarray, tuple[int, ...]]:
    """Classes, (N,) int64 index of the class of each box, and ids of the classes in result files."""
    features = opened.features
    named = {name: features.class_names(features.object_columns[name]) for name in objects.others}
    typed = [name for name, names in named.items() if names]
    column = next(iter([*usual(typed, OBJECT_CLASSES), *usual(objects.others, OBJECT_CLASSES)]), None)
    column = column or (typed[0] if len(typed) == 1 else None)
    if column is None:
        log.warning("%s has no classes of its boxes: all are read as one class, '%s'", opened.source, ONE_CLASS)
        return (ONE_CLASS,), np.zeros(len(objects.boxes), np.int64), (0,)
    names = named[column]
    if names:
        label = class_indices(objects.others[column], len(names), column, opened.source)
        classes, ids = names, tuple(range(len(names)))
    else:
        classes, label, numbered = indexed(class_texts(objects.others[column], column, opened.source))
        ids = tuple(map(int, classes)) if numbered and classes else tuple(range(len(classes)))
    if (label < 0).any() or "" in classes:
        missing = label < 0 if (label < 0).any() else label == classes.index("")
        raise BadInput(f"{opened.source}: row {objects.image[missing][0]} has a box without a class")
    return classes, label, ids


def _image_ids(opened: Opened) -> np.ndarray:
    """The stored ids if they are unique whole numbers, else 1 plus the row."""
    import pyarrow as pa

    for name in usual(opened.rows.schema.names, IMAGE_IDS):
        if pa.types.is_integer(opened.rows.schema.field(name).type):
            ids = opened.rows.column(name)
            values = np.asarray(ids, np.int64) if not ids.null_count else np.zeros(2, np.int64)
            if len(np.unique(values)) == len(opened.rows) and values.min() >= 0:
                return values
    return np.arange(1, len(opened.rows) + 1)


def _sizes(opened: Opened) -> np.ndarray:
    """(n, 2) height and width from columns of these names; 0 without them and where they are missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sides = []
    for side in ("height", "width"):
        name = next(iter(usual(opened.rows.schema.names, (side, f"image{side}"))), None)
        if name is None or not pa.types.is_integer(opened.rows.schema.field(name).type):
            return np.zeros((len(opened.rows), 2), np.int64)
        sides.append(np.asarray(pc.fill_null(opened.rows.column(name), 0), np.int64).clip(0))
    sizes = np.stack(sides, axis=1)
    return np.where((sizes > 0).all(1, keepdims=True), sizes, 0)


def _flags(objects: Objects, names: tuple[str, ...], source: Path) -> np.ndarray:
    """(N,) bool from a column of one of these names; False without one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    name = next((name for name in names if name in objects.others), None)
    if name is None:
        return np.zeros(len(objects.boxes), bool)
    with reading(source):
        return np.asarray(pc.fill_null(pc.cast(objects.others[name], pa.int64()), 0)) != 0


def _areas(objects: Objects, columns: BoxColumns) -> np.ndarray:
    """(N,) px^2; NaN for missing and impossible areas, which are not positive or larger than the box."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "area" not in objects.others or pa.types.is_nested(objects.others["area"].type):
        return columns.areas
    with reading(columns.source):
        areas = np.asarray(pc.cast(pc.fill_null(objects.others["area"], 0), pa.float64()))
    with np.errstate(invalid="ignore", over="ignore"):
        possible = (areas > 0) & (areas <= (columns.boxes[:, 2:] - columns.boxes[:, :2] + 1).prod(1))
    return np.where(possible, areas, np.nan)
