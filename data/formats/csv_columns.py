"""Tables of boxes in text files: which delimiter they have, and what their columns mean."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbones.errors import BadInput
from data.formats.records import Record, read_text, start_of
from data.images import IMAGE_SUFFIXES

SUFFIXES = (".csv", ".tsv")
DELIMITERS = ",;\t|"
# Usual names of columns, in lower case without spaces and punctuation; the first that a table has counts.
NAMES = {
    "image": ("filename", "file", "image", "imageid", "imagename", "imagefile", "imagefilename", "imagepath",
              "filepath", "path", "img", "imgname", "imgid", "imgpath", "imgfile", "frame", "picture"),
    "label": ("class", "label", "labelname", "classname", "category", "categoryname", "objectclass", "objectname",
              "object", "name", "classid", "labelid", "categoryid", "tag", "type"),
    "x1": ("xmin", "x1", "xtl", "left", "xleft", "minx", "bboxxmin", "boxxmin", "bboxx1", "x0"),
    "y1": ("ymin", "y1", "ytl", "top", "ytop", "miny", "bboxymin", "boxymin", "bboxy1", "y0"),
    "x2": ("xmax", "x2", "xbr", "right", "xright", "maxx", "bboxxmax", "boxxmax", "bboxx2"),
    "y2": ("ymax", "y2", "ybr", "bottom", "ybottom", "maxy", "bboxymax", "boxymax", "bboxy2"),
    "cx": ("xcenter", "cx", "centerx", "xc", "xcentre", "centrex", "bboxcx"),
    "cy": ("ycenter", "cy", "centery", "yc", "ycentre", "centrey", "bboxcy"),
    "x": ("x", "bboxx", "boxx", "xmin", "x1", "left", "xtl"),
    "y": ("y", "bboxy", "boxy", "ymin", "y1", "top", "ytl"),
    "w": ("bboxwidth", "boxwidth", "bboxw", "boxw", "bw", "w", "width"),
    "h": ("bboxheight", "boxheight", "bboxh", "boxh", "bh", "h", "height"),
    "box": ("bbox", "box", "boundingbox", "bndbox", "coordinates"),
    "width": ("imagewidth", "imgwidth", "imgw", "imagew", "filewidth", "width", "w"),
    "height": ("imageheight", "imgheight", "imgh", "imageh", "fileheight", "height", "h"),
    "split": ("split", "set", "subset", "usage", "partition"),
    "crowd": ("isgroupof", "iscrowd", "crowd"),
    "difficult": ("difficult", "isdifficult"),
}  # fmt: skip
# The numbers of a box by the columns that a table has, and what they mean; None if the columns do not define it.
CORNERS: dict[tuple[str, ...], Literal["xyxy", "xywh", "cxcywh"] | None] = {
    ("x1", "y1", "x2", "y2"): "xyxy", ("cx", "cy", "w", "h"): "cxcywh", ("x", "y", "w", "h"): "xywh", ("box",): None
}  # fmt: skip
# Without a header: keras-retinanet's order, which SKU-110K continues with the size of the image.
PLAIN = ("image", "x1", "y1", "x2", "y2", "label")


@dataclass(frozen=True)
class BoxColumnsOf:
    """What the columns of a table mean.

    Attributes:
        delimiter: of the columns.
        index: role in `NAMES` -> column from 0.
        corners: the roles of a box's numbers, a key of `CORNERS`.
        has_header: whether the first line names the columns.
    """

    delimiter: str
    index: dict[str, int]
    corners: tuple[str, ...]
    has_header: bool = True


def recognise_columns(file: Path) -> BoxColumnsOf | None:
    """The columns of a table of boxes, from its first lines; None if it is not one."""
    if file.suffix.lower() not in (*SUFFIXES, ".txt") or not file.is_file():
        return None
    lines = [line for line in start_of(file).splitlines() if line.strip()][:2]
    for delimiter in DELIMITERS if lines else "":
        first = _cells(lines[0], delimiter)
        found = _named(first, delimiter) or _plain(first, delimiter)
        if found is not None:
            return found
    return None


def rows_of(file: Path, columns: BoxColumnsOf) -> Iterator[tuple[Record, dict[str, str]]]:
    """Each row, with the number of its line: role -> stripped text. A comma in a number is read as a point.

    Raises BadInput for a row that is too short or not valid.
    """
    needed = max(columns.index[role] for role in ("image", *columns.corners))
    reader = csv.reader(io.StringIO(read_text(file)), delimiter=columns.delimiter)
    decimal_comma = columns.delimiter in ";\t|"
    try:
        for number, cells in enumerate(reader):
            if (not number and columns.has_header) or not any(map(str.strip, cells)):
                continue
            record = Record(file, f"line {reader.line_num}")
            if len(cells) <= needed:
                record.fail(f"has {len(cells)} columns, fewer than {needed + 1}")
            row = {role: cells[i].strip() for role, i in columns.index.items() if i < len(cells)}
            if decimal_comma:
                row |= {role: row[role].replace(",", ".") for role in columns.corners if role != "box"}
            yield record, row
    except csv.Error as error:
        raise BadInput(f"{file}: line {reader.line_num} is not valid: {error}") from error


def numbers_of(row: dict[str, str], columns: BoxColumnsOf, record: Record) -> list[float] | None:
    """The four numbers of a row's box; None if their columns are empty, as for images without objects."""
    texts = [row[role] for role in columns.corners]
    if columns.corners == ("box",):
        texts = [text for text in re.split(r"[\s,;\[\](){}]+", texts[0]) if text]
        if texts and len(texts) != 4:
            record.fail(f"has the box {row['box']!r}, not four numbers")
    if not any(texts):
        return None
    return [record.number(text, role) for role, text in zip(_roles(columns), texts, strict=True)]


def _roles(columns: BoxColumnsOf) -> tuple[str, ...]:
    return columns.corners if len(columns.corners) == 4 else ("the box",) * 4


def _named(first: list[str], delimiter: str) -> BoxColumnsOf | None:
    plain = [re.sub(r"[\W_]+", "", cell).lower() for cell in first]
    position = {name: i for i, name in reversed(list(enumerate(plain)))}
    roles = {role: [position[name] for name in names if name in position] for role, names in NAMES.items()}
    corners = next((keys for keys in CORNERS if all(roles[key] for key in keys)), None)
    if not roles["image"] or corners is None:
        return None
    index: dict[str, int] = {}
    # A name can serve two roles, such as width: the first role in this order takes the column.
    for role in (*corners, "image", "label", "width", "height", "split", "crowd", "difficult"):
        free = [i for i in roles[role] if i not in index.values()]
        if free:
            index[role] = free[0]
    complete = "image" in index and all(key in index for key in corners)
    return BoxColumnsOf(delimiter, index, corners) if complete else None


def _plain(first: list[str], delimiter: str) -> BoxColumnsOf | None:
    if len(first) not in (6, 8) or not first[0].strip().lower().endswith(IMAGE_SUFFIXES):
        return None
    if not all(_is_number(cell) for cell in first[1:5]) and any(cell.strip() for cell in first[1:]):
        return None
    roles = (*PLAIN, "width", "height") if len(first) == 8 else PLAIN
    return BoxColumnsOf(delimiter, {role: i for i, role in enumerate(roles)}, PLAIN[1:5], has_header=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
