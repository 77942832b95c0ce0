"""Images with their classes in a table: CSV, TSV or a text list, for the whole data set or for each split.

ROOT/labels.csv with a row for each image, and a column with its split if there are several; or ROOT/{train,val}.csv, or
ROOT/{train,val}/labels.csv. The images may be in any folder below ROOT. Columns are recognised by usual names. Instead
of a column with the class, there may be a column of 0 and 1 for each class.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import ClassColumns, digest_of
from data.formats import Format, Sniffed, Split
from data.formats.class_table_columns import KNOWN, class_names, content_of, image_column, splits_of_rows
from data.formats.coco_json import is_safe
from data.formats.folders import SPLIT_NAMES, indexed
from data.formats.image_files import ImageFiles
from data.formats.listing import entries, folders
from data.formats.tables import SUFFIXES, Table, read_table
from data.options import ClassOptions

PLACES = ("annotations", "labels", "splits")  # folders of tables besides ROOT and the folders of the splits
LISTS = {"labels", "annotations", "list"}  # words in the name of a .txt with images and classes, besides splits
UNLABELLED = "their row has no class"
UNNAMED = "no row names them"

log = logging.getLogger(__name__)


def sniff(root: Path) -> Sniffed | None:
    """Tables with a column of images and a column of classes."""
    tables = _tables(root) if root.is_dir() else [("", root)] if root.suffix.lower() in SUFFIXES else []
    content = content_of(tables[0][1]) if tables else None
    if content is None:
        return None
    score = 0.2 if content == "images" else 0.7 if root.is_file() else 0.55
    return Sniffed(score, f"{tables[0][1]} has a column of images" + " and their classes" * (content == "classes"))


def splits(root: Path) -> list[str]:
    """Splits by the names of the tables, or by the column of a single table; `train` if nothing names a split.

    Raises BadInput if there are several tables for a split, or several without the name of one.
    """
    return list(_table_of_split(root))


def read(split: Split, options: ClassOptions) -> ClassColumns:
    """Images with classes of the rows of a split.

    Raises BadInput if the columns are not recognised, if a row has no single class, or if two rows contradict.
    """
    file = _table_of_split(split.root)[split.name] if split.name else _single_table(split.root)
    table = read_table(file, KNOWN)
    if not table.rows:
        raise BadInput(f"{file} has no rows")
    images, column = _images(split, file, table, bool(options.follow_links))
    table = _with_header(table, images, column)
    names_of_splits = splits_of_rows(table)
    if names_of_splits and not split.name:
        raise BadInput(
            f"{file} has rows of several splits: {', '.join(sorted(set(names_of_splits)))}. To read them as splits, "
            f"name the file with `root={file}`",
            settings=("data.root",),
        )
    classes_of_rows = class_names(table, column, options.label_column)
    found = [images.find(text) or _safe(text, file) for text in table.column(column)]
    own = [not names_of_splits or name == split.name for name in names_of_splits or found]
    left_out: dict[str, list[str]] = {}
    class_of = _class_of_images(table, zip(found, classes_of_rows, own, strict=True), left_out)
    if unnamed := _unnamed(images, {*found, *_images_of_other_tables(split.root, file, images)}):
        left_out[UNNAMED] = unnamed
    names = sorted(class_of)
    classes, label, numbered = indexed([class_of[name] for name in names])
    return ClassColumns(
        source=file,
        folder=images.folder,
        names=names,
        image_ids=np.arange(1, len(names) + 1),
        classes=classes,
        label_digest=digest_of(classes, label),
        left_out=left_out,
        label=label,
        numbered=numbered,
    )


FORMAT = Format(
    name="csv",
    kind="classes",
    layout="""
        ROOT/train.csv and ROOT/val.csv, or one table with a column for the split, with columns such as image and label
        (CSV, TSV or TXT); the images in any folder of ROOT""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _tables(root: Path) -> list[tuple[str, Path]]:
    """Tables of images and classes with the name of their split, which is "" if nothing names it."""
    children = folders(root)
    own = [path for path in children if path.name.lower() in SPLIT_NAMES]
    places = [root, *(path for path in children if path.name.lower() in PLACES), *own]
    found: dict[str, list[tuple[str, Path]]] = {"classes": [], "images": []}
    for place in places:
        for path in sorted(Path(entry.path) for entry in entries(place) if entry.name.lower().endswith(SUFFIXES)):
            words = _words(path.stem)
            if path.suffix.lower() == ".txt" and not words & (SPLIT_NAMES | LISTS):
                continue
            names = {place.name} if place in own else words & SPLIT_NAMES
            if len(names) < 2 and (content := content_of(path)) is not None:
                found[content].append((next(iter(names), ""), path))
    return found["classes"] or found["images"]


def _words(stem: str) -> set[str]:
    """The words in a file's name in lower case: train and labels in `train_labels` and `trainLabels`."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", stem)}


def _table_of_split(root: Path) -> dict[str, Path]:
    if root.is_file():
        return _splits_in(root)
    found = _tables(root)
    named = [(name, file) for name, file in found if name]
    result: dict[str, Path] = {}
    for name, file in named:
        if name in result:
            raise BadInput(
                f"{root} has several tables for the split {name}: {result[name]} and {file}. Name one, as in "
                f"`train={file}`",
                settings=("data.train", "data.val"),
            )
        result[name] = file
    return result or (_splits_in(_single_table(root)) if found else {})


def _single_table(root: Path) -> Path:
    """The only table. Raises BadInput if there are several."""
    if root.is_file():
        return root
    found = [file for _, file in _tables(root)]
    if len(found) != 1:
        several = ", ".join(file.name for file in found[:5])
        raise BadInput(
            f"{root} has {len(found)} tables of images and classes: {several}. Name one, as in `train={found[0]}`"
            if found
            else f"{root} has no table of images and classes",
            settings=("data.train", "data.val"),
        )
    return found[0]


def _splits_in(file: Path) -> dict[str, Path]:
    """The splits in the column of a table; `train` if it has no such column."""
    names = splits_of_rows(read_table(file, KNOWN))
    return dict.fromkeys(sorted(set(names)) or ["train"], file)


def _images(split: Split, file: Path, table: Table, follow: bool) -> tuple[ImageFiles, int]:
    """The images that the rows name, and the column with their names.

    They are in the folder of the split, if the second and the last row name images there: other splits may have images
    of the same names. Otherwise they are anywhere in the folder of the data set.
    """
    root = split.root
    if root.is_file():
        root = file.parent.parent if file.parent.name.lower() in PLACES else file.parent
    own = [root / split.name] if split.name and (root / split.name).is_dir() else []
    for folder in [split.images] if split.images else [*own, root]:
        images = ImageFiles(folder, follow)
        is_found = [any(map(_is_in(images), row)) for row in (table.rows[:2][-1], table.rows[-1])]
        if all(is_found) or (any(is_found) and folder == file.parent):
            break
    return images, image_column(table, _is_in(images))


def _is_in(images: ImageFiles) -> Callable[[str], bool]:
    def is_image(text: str) -> bool:
        try:
            return images.find(text) is not None
        except BadInput:  # several images fit
            return True

    return is_image


def _unnamed(images: ImageFiles, named: set[str]) -> list[str]:
    """Images that no row names, in the folders of those that rows name."""
    folders_of_named = {os.path.dirname(name) for name in named}
    return [name for name in images.names if name not in named and os.path.dirname(name) in folders_of_named]


def _with_header(table: Table, images: ImageFiles, column: int) -> Table:
    """The table with its first row as the header, if that row names no image and the last one does."""
    values = table.column(column)
    if table.header or _is_in(images)(values[0]) or not _is_in(images)(values[-1]):
        return table
    return Table(table.file, tuple(table.rows[0]), table.rows[1:])


def _safe(text: str, file: Path) -> str:
    """The name of a missing image, which is reported later. Raises BadInput if it could leave the folder."""
    name = os.path.normpath(text.replace("\\", "/")) if text else text
    if not is_safe(name):
        raise BadInput(f"{file}: {text!r} is not a path inside the image folder: refused, not read")
    return name


def _class_of_images(
    table: Table, rows: Iterable[tuple[str, str, bool]], left_out: dict[str, list[str]]
) -> dict[str, str]:
    """The class of each image. Rows are image, class, and whether they belong to the split."""
    class_of: dict[str, str] = {}
    repeated = 0
    for image, name, own in rows:
        if not own:
            continue
        if not name:
            left_out.setdefault(UNLABELLED, []).append(image)
        elif class_of.setdefault(image, name) != name:
            raise BadInput(f"{table.file} has two classes for {image}: '{class_of[image]}' and '{name}'")
        else:
            repeated += 1
    if not class_of:
        raise BadInput(f"no row of {table.file} has a class")
    if repeated := repeated - len(class_of):
        log.warning("%s: %d rows repeat an image with the same class. Each image is read once", table.file, repeated)
    return class_of


def _images_of_other_tables(root: Path, file: Path, images: ImageFiles) -> set[str]:
    tables = [] if root.is_file() else [read_table(other, KNOWN) for _, other in _tables(root) if other != file]
    return {name for table in tables for row in table.rows for cell in row if (name := _name_or_none(images, cell))}


def _name_or_none(images: ImageFiles, text: str) -> str | None:
    try:
        return images.find(text)
    except BadInput:
        return None
