"""What the columns of a table of images and classes mean, by usual names and by their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from backbones.errors import BadInput, UserError
from data.formats.folders import SPLIT_NAMES
from data.formats.listing import is_image_name
from data.formats.tables import Table, plain_name, read_table

# Plain names, see `plain_name`, the most usual first.
FILES = (
    *("filename", "file", "files", "filepath", "filenames", "path", "paths", "imagepath", "imgpath", "image", "images"),
    *("img", "imagename", "imgname", "imagefile", "photo", "picture", "imageid", "imgid", "fname", "id", "name"),
)
CLASSES = (
    *("label", "labels", "class", "classes", "classname", "labelname", "category", "categoryname", "target", "targets"),
    *("species", "breed", "classid", "labelid", "categoryid", "diagnosis", "level", "y"),
)
SPLITS = ("split", "splits", "set", "subset", "partition", "dataset", "phase", "usage")
IS_VAL = ("isvalid", "isval")  # fastai's column
_BOXES = {"xmin", "xmax", "ymin", "ymax", "x1", "x2", "bbox", "boxes", "bboxx", "regionshapeattributes"}
KNOWN = (*FILES, *CLASSES, *SPLITS, *IS_VAL)
_NO, _YES = ("0", "0.0", "false", "no"), ("1", "1.0", "true", "yes")
_SAMPLE = 50  # rows from which the column of the images is recognised


def content_of(file: Path) -> Literal["classes", "images"] | None:
    """What a text file has: images with recognised classes, or only images; None if neither. Reads its beginning."""
    try:
        table = read_table(file, KNOWN, head=True)
        image = image_column(table, is_image_name)
    except BadInput:
        return None
    if not table.rows or table.width < 2 or {plain_name(name) for name in table.header} & _BOXES:
        return None
    has_images = _share(table.column(image), is_image_name) > 0.5
    if not has_images and not (table.find(FILES) and any(column != image for column in table.find(CLASSES))):
        return None
    try:
        return "classes" if _label_column(table, image) is not None or _one_hot(table, image) else "images"
    except BadInput:
        return "classes"  # several columns may be the class; `class_names` reports them


def image_column(table: Table, is_image: Callable[[str], bool]) -> int:
    """The column of the images: the one with most images among those with a usual name, or among all.

    Raises BadInput if no column has a usual name or an image.
    """
    named = table.find(FILES)
    share, column = max(
        ((_share(table.column(i), is_image), -order) for order, i in enumerate(named or range(table.width))),
        default=(0.0, 0),
    )
    if not named and not share:
        raise BadInput(f"{table.file} has no column of images: {_described(table)}. Call it 'image'")
    return (named or range(table.width))[-column]


def class_names(table: Table, image: int, wanted: str | None) -> list[str]:
    """The class of each row; "" for a row without one.

    Args:
        table: of images and classes.
        image: the column of the images.
        wanted: name of the column with the classes; None to recognise it.

    Raises BadInput if the column is not recognised, or if the row of an image has several classes.
    """
    if wanted is not None:
        columns = [i for i, name in enumerate(table.header) if plain_name(name) == plain_name(wanted)]
        if not columns:
            message = f"{table.file} has no column `label_column={wanted!r}`: {_described(table)}"
            raise UserError(message, settings=("data.label_column",))
        return _whole(table.column(columns[0]))
    column = _label_column(table, image)
    if column is not None:
        return _whole(table.column(column))
    if columns := _one_hot(table, image):
        return _from_one_hot(table, image, columns)
    raise BadInput(
        f"{table.file} has no column that is recognised as the class: {_described(table)}. Name it with `label_column`",
        settings=("data.label_column",),
    )


def splits_of_rows(table: Table) -> list[str]:
    """The split of each row; empty if the table has no column of splits."""
    for column in table.find(SPLITS):
        names = table.column(column)
        if names and all(name.lower() in SPLIT_NAMES for name in names):
            return names
    for column in table.find(IS_VAL):
        values = [value.lower() for value in table.column(column)]
        if values and all(value in _NO + _YES for value in values):
            return ["val" if value in _YES else "train" for value in values]
    return []


def _label_column(table: Table, image: int) -> int | None:
    """The column of the classes; None if it is not recognised. Raises BadInput if several columns contradict."""
    usual = [column for column in table.find(CLASSES) if column != image]
    if not usual:
        others = set(range(table.width)) - {image, *table.find(SPLITS), *table.find(IS_VAL)}
        return others.pop() if len(others) == 1 else None
    first = table.column(usual[0])
    for column in usual[1:]:
        pairs = set(zip(first, table.column(column), strict=True))
        if len(pairs) != len(set(first)) or len(pairs) != len(set(table.column(column))):
            names = " and ".join(table.title(i) for i in usual)
            raise BadInput(
                f"{table.file} has several columns that may be the class: {names}. Name one with `label_column`",
                settings=("data.label_column",),
            )
    # A number and a name for the same class: the name.
    return next((column for column in usual if not all(map(_is_number, table.column(column)))), usual[0])


def _one_hot(table: Table, image: int) -> list[int]:
    """Columns with 0 or 1 in each row, one for each class; empty if there are fewer than two."""
    if not table.header:
        return []
    columns = [i for i in range(table.width) if i != image and i not in table.find(IS_VAL)]
    found = [i for i in columns if all(value.lower() in _NO[:2] + _YES[:2] for value in table.column(i))]
    return found if len(found) > 1 else []


def _from_one_hot(table: Table, image: int, columns: list[int]) -> list[str]:
    names = []
    for row in table.rows:
        own = [table.header[i] for i in columns if row[i] in _YES]
        if len(own) > 1:
            raise BadInput(f"{table.file} has several classes for {row[image]}, but one is needed: {', '.join(own)}")
        names.append(own[0] if own else "")
    return names


def _whole(values: list[str]) -> list[str]:
    """The values; numbers as whole numbers where all are, since tools write 3.0 if a column has gaps."""
    if all(value.removesuffix(".0").isdecimal() or not value for value in values):
        return [value.removesuffix(".0") for value in values]
    return values


def _is_number(value: str) -> bool:
    return value.removesuffix(".0").isdecimal()


def _share(values: Sequence[str], condition: Callable[[str], bool]) -> float:
    sample = values[:: max(1, len(values) // _SAMPLE)]
    return sum(map(condition, sample)) / max(1, len(sample))


def _described(table: Table) -> str:
    if table.header:
        return f"its columns are {', '.join(table.header[:12])}"
    return f"its first row is {' | '.join(table.rows[0][:6])}" if table.rows else "it is empty"
