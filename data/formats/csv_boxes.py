"""Boxes in a table: a CSV or TSV file with a row per object, whose columns are recognised by their usual names.

    filename,width,height,class,xmin,ymin,xmax,ymax     TensorFlow's object detection, Roboflow
    ImageID,Source,LabelName,Confidence,XMin,XMax,...   Open Images, with fractions of the image size
    path,x1,y1,x2,y2,class                              keras-retinanet, without a header; empty for no objects

Splits are files (train.csv, train_labels.csv, train/_annotations.csv) or the values of a column `split` or `set`.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns, digest_of
from data.formats import Format, Sniffed, Split
from data.formats.box_meaning import recognise_meaning
from data.formats.box_table import BoxTable
from data.formats.coco_json import corners
from data.formats.csv_columns import CORNERS, SUFFIXES, BoxColumnsOf, numbers_of, recognise_columns, rows_of
from data.formats.records import read_text
from data.formats.split_files import any_file, file_of, find_files, images_of, name_in, unnamed
from data.options import BoxOptions
from data.scan import scan

LARGEST_FRACTION = 2.0  # coordinates up to this, with a fractional part, are fractions of the image size
ONLY_CLASS = "object"  # of tables without a column of classes
_TRUE = ("1", "true", "yes", "1.0")

log = logging.getLogger(__name__)


def sniff(root: Path) -> Sniffed | None:
    """A table whose columns are those of boxes."""
    if root.is_file():
        found = root.suffix.lower() in SUFFIXES and recognise_columns(root) is not None
        return Sniffed(0.8, f"{root.name} is a table of boxes") if found else None
    file = any_file(root, _is_table, SUFFIXES)
    return Sniffed(0.8, f"{file.relative_to(root)} is a table of boxes") if file else None


def splits(root: Path) -> list[str]:
    """Names of the tables, or the values of the column of splits."""
    if root.is_file():
        return _own_splits(root) or ["train"]
    files = _tables(root)
    own = _own_splits(files["train"]) if list(files) == ["train"] else []
    return own or list(files)


def read(split: Split, options: BoxOptions) -> BoxColumns:
    """Images and boxes of a table, or of the rows of one split in it."""
    follow = bool(options.follow_links)
    file = file_of(split, _is_table, SUFFIXES)
    columns = recognise_columns(file)
    if columns is None:
        raise BadInput(f"{file} is not a table of boxes: its first line names no columns for the image and the box")
    wanted = split.name if split.name in _own_splits(file) else ""
    rows = [
        (record, row) for record, row in rows_of(file, columns) if not wanted or row.get("split", "").lower() == wanted
    ]
    images = images_of(file, split, [row["image"] for _, row in rows], follow)
    table, names = BoxTable(file), _display_names(file, split.root)
    found: dict[str, str] = {}
    for record, row in rows:
        written = row["image"]
        if written not in found:
            found[written] = name_in(images, written, record)
        size = record.size(row.get("height"), row.get("width"))
        image = table.image(found[written], size)
        numbers = numbers_of(row, columns, record)
        if numbers is not None:
            label = record.label(row.get("label"), "class") if "label" in columns.index else ONLY_CLASS
            crowd, difficult = (row.get(role, "").lower() in _TRUE for role in ("crowd", "difficult"))
            x1, y1, x2, y2 = numbers
            table.box(image, names.get(label, label), (x1, y1, x2, y2), crowd, difficult)
    left_out = unnamed(images, set(found.values()), file, len(splits(split.root)) < 2)
    return _as_corners(table.columns(images.folder, left_out=left_out), columns, options)


FORMAT = Format(
    name="csv",
    kind="boxes",
    layout="""
        ROOT/train.csv and ROOT/val.csv, or a CSV file with a column split, with the columns filename, class, xmin,
        ymin, xmax, ymax or other usual names, and the images in ROOT/, ROOT/images/ or ROOT/train/""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _tables(root: Path) -> dict[str, Path]:
    return find_files(root, _is_table, SUFFIXES)


def _is_table(file: Path) -> bool:
    return recognise_columns(file) is not None


def _own_splits(file: Path) -> list[str]:
    """The values of the column of splits, in lower case; none without such a column."""
    columns = recognise_columns(file)
    if columns is None or "split" not in columns.index:
        return []
    return sorted({row.get("split", "").lower() for _, row in rows_of(file, columns)} - {""})


def _display_names(file: Path, root: Path) -> dict[str, str]:
    """Open Images' names of classes by their codes, such as /m/01g317, from class-descriptions-boxable.csv."""
    folders = dict.fromkeys([file.parent, root if root.is_dir() else file.parent, file.parent.parent])
    for path in (path for folder in folders for path in sorted(folder.glob("*class-descriptions*.csv"))):
        pairs = [line.split(",", 1) for line in read_text(path).splitlines() if "," in line]
        return {code.strip(): name.strip().strip('"') for code, name in pairs}
    return {}


def _as_corners(columns: BoxColumns, of: BoxColumnsOf, options: BoxOptions) -> BoxColumns:
    """The boxes as corners in pixels. Fractions become pixels by the size of the files, see `yolo`."""
    values = columns.boxes
    finite = values[np.isfinite(values)]
    if len(finite) and np.abs(finite).max() <= LARGEST_FRACTION and (finite != np.round(finite)).any():
        headers = scan(columns, np.arange(len(columns)))
        sizes = headers.upright_sizes if options.exif == "apply" else headers.sizes
        with np.errstate(invalid="ignore"):
            values = values * sizes[columns.image][:, [1, 0, 1, 0]]
        columns = replace(columns, sizes=sizes, sizes_of_files=True)
    meaning = options.boxes or CORNERS[of.corners] or recognise_meaning(values, columns)
    return replace(columns, boxes=corners(values, meaning), label_digest=digest_of(columns.label_digest, meaning))
