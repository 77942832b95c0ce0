"""labelme: a JSON file per image with shapes, also as AnyLabeling and X-AnyLabeling write it.

The box of a shape is the smallest that contains it. Points and lines have none and are left out. Pixels that are stored
in the JSON file (imageData) are not used: the image files are. The classes are those of all splits, sorted by name.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats import Format, Sniffed, Split
from data.formats.box_table import BoxTable, natural
from data.formats.label_files import find_splits, pairs_of
from data.formats.records import Record, read_json, start_of
from data.formats.shapes import Box, around, circle
from data.options import BoxOptions

WITHOUT_BOX = ("point", "points", "line", "linestrip")


def sniff(root: Path) -> Sniffed | None:
    """JSON files with shapes beside or parallel to images."""
    found = find_splits(root, _is_label, ".json") if root.is_dir() else {}
    return Sniffed(0.8, f"{next(iter(found.values())).labels} has labelme's JSON files") if found else None


def splits(root: Path) -> list[str]:
    """The folders with JSON files."""
    return list(find_splits(root, _is_label, ".json"))


def read(split: Split, options: BoxOptions) -> BoxColumns:
    """Images and boxes of a split."""
    pairs = pairs_of(split, _is_label, ".json", _written_name, bool(options.follow_links))
    table = BoxTable(pairs.source)
    for name, file in pairs.files.items():
        _read_file(file, name, table)
    classes = {*table.labels, *(label for file in pairs.other_files for label in _labels(file))}
    return table.columns(pairs.images.folder, sorted(classes, key=natural), left_out=pairs.left_out)


FORMAT = Format(
    name="labelme",
    kind="boxes",
    layout="""
        ROOT/{train,val}/ with images and labelme's JSON file for each, or ROOT/images/{train,val}/ and
        ROOT/labels/{train,val}/""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _read_file(file: Path, name: str, table: BoxTable) -> None:
    document = Record(file, "the file").mapping(read_json(file))
    if "shapes" not in document:
        Record(file, "the file").fail("has no shapes: it is not a file of labelme")
    size = Record(file, "the image").size(document.get("imageHeight"), document.get("imageWidth"))
    image = table.image(name, size)
    for number, shape in enumerate(Record(file, "the file").sequence(document.get("shapes"), "shapes")):
        record = Record(file, f"shapes[{number}]")
        shape = record.mapping(shape)
        label = record.label(shape.get("label"), "label")
        kind = shape.get("shape_type") or "polygon"
        if kind in WITHOUT_BOX:
            table.skipped[kind] += 1
        else:
            table.box(image, label, _box(shape, kind, record), difficult=shape.get("difficult") is True)


def _box(shape: dict[str, Any], kind: Any, record: Record) -> Box:
    points = record.points(shape.get("points"), "points")
    if kind == "circle":  # its centre and a point on it
        if len(points) != 2:
            record.fail(f"is a circle of {len(points)} points, not 2")
        return circle(points[0], math.dist(*points))
    return around(points)


def _written_name(file: Path) -> str:
    document = read_json(file)
    written = document.get("imagePath") if isinstance(document, dict) else None
    return written if isinstance(written, str) else ""


def _labels(file: Path) -> set[str]:
    """Class names in a JSON file of another split. That split reports a damaged file."""
    table = BoxTable(file)
    try:
        _read_file(file, "", table)
    except BadInput:
        return set()
    return table.labels


def _is_label(file: Path) -> bool:
    start = start_of(file).lstrip()
    return start.startswith("{") and '"shapes"' in start and ('"flags"' in start or '"version"' in start)
