"""VGG Image Annotator (VIA 1 and 2): a JSON or CSV file with the regions of all images of a split.

JSON is a project (`_via_img_metadata`) or an export of annotations. Regions have attributes, of which one is the class:
one that is called class, label, name, category, type or object; else the one that most regions have. A warning names it
if there are several. Points and polylines have no box and are left out.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats import Format, Sniffed, Split
from data.formats.box_table import BoxTable
from data.formats.records import Record, read_json, read_text, shown, start_of
from data.formats.shapes import Box, around, circle, ellipse
from data.formats.split_files import any_file, file_of, find_files, images_of, name_in, unnamed
from data.options import BoxOptions

SUFFIXES = (".json", ".csv")
CLASS_NAMES = ("class", "label", "name", "category", "type", "object")
WITHOUT_BOX = ("point", "polyline")
ONLY_CLASS = "object"  # of regions without attributes

log = logging.getLogger(__name__)

Region = tuple[Record, dict[str, Any], dict[str, Any]]  # where it is, its shape, its attributes


def sniff(root: Path) -> Sniffed | None:
    """A file with VIA's keys or columns."""
    file = root if root.is_file() and _is_label(root) else any_file(root, _is_label, SUFFIXES)
    return Sniffed(0.85, f"{file.name} is a file of VGG Image Annotator") if file else None


def splits(root: Path) -> list[str]:
    """The splits that have a file."""
    return list(find_files(root, _is_label, SUFFIXES))


def read(split: Split, options: BoxOptions) -> BoxColumns:
    """Images and boxes of a file."""
    file = file_of(split, _is_label, SUFFIXES)
    by_image = _read_csv(file) if file.suffix.lower() == ".csv" else _read_json(file)
    if not by_image:
        raise BadInput(f"{file} lists no images")
    attribute = _class_attribute([region for regions in by_image.values() for region in regions], file)
    images = images_of(file, split, list(by_image), bool(options.follow_links))
    table, named = BoxTable(file), set()
    for written, regions in by_image.items():
        name = name_in(images, written, Record(file, "the list of images"))
        named.add(name)
        image = table.image(name)
        for record, shape, attributes in regions:
            kind = shape.get("name")
            if kind in WITHOUT_BOX:
                table.skipped[kind] += 1
            else:
                for label in _labels(attributes, attribute, record):
                    table.box(image, label, _box(shape, kind, record))
    left_out = unnamed(images, named, file, len(find_files(split.root, _is_label, SUFFIXES)) < 2)
    return table.columns(images.folder, left_out=left_out)


FORMAT = Format(
    name="via",
    kind="boxes",
    layout="ROOT/{train,val}/ with images and a JSON or CSV file of VGG Image Annotator, or one such file for all",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _read_json(file: Path) -> dict[str, list[Region]]:
    """The regions of each image in a project or an export."""
    document = Record(file, "the file").mapping(read_json(file))
    metadata = Record(file, "_via_img_metadata").mapping(document.get("_via_img_metadata", document))
    found: dict[str, list[Region]] = {}
    for key, entry in metadata.items():
        record = Record(file, f"image {key!r}")
        entry = record.mapping(entry)
        name = entry.get("filename")
        if not isinstance(name, str) or not name:
            record.fail(f"has filename {name!r}, not a file name")
        regions = entry.get("regions")
        # VIA 1 has an object with the keys "0", "1", ...
        listed = list(regions.values()) if isinstance(regions, dict) else record.sequence(regions, "regions")
        own = found.setdefault(name, [])
        for number, region in enumerate(listed):
            where = Record(file, f"image {key!r}, regions[{number}]")
            region = where.mapping(region)
            shape, attributes = (where.mapping(region.get(f"{part}_attributes", {})) for part in ("shape", "region"))
            own.append((where, shape, attributes))
    return found


def _read_csv(file: Path) -> dict[str, list[Region]]:
    """The regions of each image in a table, whose cells are JSON."""
    found: dict[str, list[Region]] = {}
    text = read_text(file)
    reader = csv.DictReader(io.StringIO(text.removeprefix("#")))
    try:
        for row in reader:
            record = Record(file, f"line {reader.line_num}")
            name = (row.get("filename") or "").strip()
            if not name:
                record.fail("has no filename")
            shape, attributes = (_cell(row.get(f"region_{part}attributes"), record) for part in ("shape_", ""))
            own = found.setdefault(name, [])
            if shape:  # otherwise the image has no regions
                own.append((record, shape, attributes))
    except csv.Error as error:
        raise BadInput(f"{file}: line {reader.line_num} is not valid: {error}") from error
    return found


def _cell(text: str | None, record: Record) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        record.fail(f"has a cell that is not valid JSON: {error}")
    return record.mapping(value)


def _class_attribute(regions: list[Region], file: Path) -> str | None:
    """The attribute whose values are the classes; None if no region has attributes."""
    counts = Counter(key for _, _, attributes in regions for key, value in attributes.items() if value not in ("", {}))
    if not counts:
        return None
    lower = {key.lower().strip(): key for key in reversed(list(counts))}
    usual = [lower[name] for name in CLASS_NAMES if name in lower]
    chosen = usual[0] if usual else counts.most_common(1)[0][0]
    if len(counts) > 1:
        log.warning(
            "%s: regions have the attributes %s; the classes are those of '%s'", file, ", ".join(counts), chosen
        )
    return chosen


def _labels(attributes: dict[str, Any], attribute: str | None, record: Record) -> list[str]:
    """The classes of a region: one, or those whose boxes are checked."""
    value = ONLY_CLASS if attribute is None else attributes.get(attribute)
    values = [key for key, is_checked in value.items() if is_checked] if isinstance(value, dict) else [value]
    if not values:
        record.fail(f"has no class in '{attribute}'")
    return [record.label(value, f"'{attribute}'") for value in values]


def _box(shape: dict[str, Any], kind: Any, record: Record) -> Box:
    def number(key: str) -> float:
        return record.number(shape.get(key), key)

    if kind == "rect":
        x, y = number("x"), number("y")
        return x, y, x + number("width"), y + number("height")
    if kind == "circle":
        return circle((number("cx"), number("cy")), number("r"))
    if kind == "ellipse":
        # VIA 2 turns by radians, `theta`; VIA 1 does not turn.
        degrees = math.degrees(record.number(shape.get("theta", 0), "theta"))
        return ellipse((number("cx"), number("cy")), (number("rx"), number("ry")), degrees)
    if kind != "polygon":
        record.fail(f"has a shape called {shown(kind)}")
    xs, ys = (record.numbers(shape.get(f"all_points_{axis}"), f"all_points_{axis}") for axis in "xy")
    if len(xs) != len(ys) or not xs:
        record.fail(f"has a polygon with {len(xs)} x and {len(ys)} y coordinates")
    return around(zip(xs, ys, strict=True))


def _is_label(file: Path) -> bool:
    start = start_of(file).lstrip()
    if file.suffix.lower() == ".csv":
        return "region_shape_attributes" in start.partition("\n")[0]
    known = '"_via_img_metadata"' in start or '"_via_settings"' in start or '"regions"' in start
    return start.startswith("{") and known and ('"filename"' in start or '"_via_' in start)
