"""What the columns of a Hugging Face data set mean: by the types that the library stores, then by usual names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from backbones.errors import BadInput, UserError
from data.formats.class_table_columns import CLASSES
from data.formats.huggingface_rows import Rows, reading
from data.formats.tables import plain_name

IMAGES = ("image", "images", "img", "picture", "photo", "jpg", "png", "pixelvalues")
LABELS = ("label", "labels", "class", "classes", "finelabel", *CLASSES)
MASKS = (
    *("annotation", "annotations", "mask", "masks", "segmentationmask", "semanticmask", "labelmask", "maskimage"),
    *("segmentation", "semanticsegmentation", "label", "labels", "labelimage", "gt", "groundtruth", "target", "seg"),
)
BOXES = ("bbox", "bboxes", "box", "boxes", "boundingbox", "boundingboxes")
OBJECT_CLASSES = (
    "category",
    "categories",
    "categoryid",
    "label",
    "labels",
    "class",
    "classes",
    "classid",
    "name",
    "type",
)
_CARD = "README.md"
_CARD_BYTES = 1_000_000  # that are searched for features


@dataclass(frozen=True)
class Features:
    """The columns of a data set by their meaning. A column is named as in `Rows.column`.

    Attributes:
        images: columns of images, those with usual names first.
        types: the stored description of the columns, as the library writes it; empty if there is none.
        schema: pyarrow's description of the columns.
        boxes: the column of boxes: a field of a structure, or of a list of structures, or a column; None without boxes.
        object_columns: other names beside the boxes -> their columns.
    """

    images: tuple[str, ...]
    types: dict[str, Any]
    schema: Any
    boxes: str | None = None
    object_columns: dict[str, str] = field(default_factory=dict)

    @property
    def image(self) -> str:
        """The column of the images to read."""
        return self.images[0]

    def mask(self) -> str | None:
        """The column of class maps; None if no second column of images has a usual name."""
        return next(iter(usual(self.images[1:], MASKS)), None)

    def class_columns(self) -> list[str]:
        """Columns that may be the class of the image: the typed ones, else those with usual names."""
        names = [
            name for name in self.schema.names if name not in self.images and _is_scalar(self.schema.field(name).type)
        ]
        typed = [name for name in names if "names" in _type(self.types.get(name))]
        return usual(typed, LABELS)[:1] or typed or usual(names, LABELS)[:1]

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """Names of the class indices in a column; None if the type of the column does not state them."""
        kind: Any = self.types
        for part in column.split("."):
            kind = _type(kind).get(part) if isinstance(kind, dict) and part in kind else _within(kind, part)
        return _names(_innermost(kind))

    def described(self) -> str:
        """The columns, for messages."""
        return ", ".join(self.schema.names[:12])


def features_of(rows: Rows, root: Path) -> Features:
    """The meaning of the columns. Raises BadInput for a damaged description of them."""
    schema = rows.schema
    with reading(rows.files[0]):
        types = _stored_types(schema) or _types_of_card(root, schema.names)
        images = [name for name in schema.names if _is_image(schema.field(name), types.get(name))]
        images = list(dict.fromkeys([*usual(images, IMAGES), *images]))
        boxes, others = _objects(schema, images)
        return Features(tuple(images), types, schema, boxes, others)


def chosen(columns: Sequence[str], wanted: str | None, features: Features, source: Path) -> str:
    """The class column: the wanted one, or the only one. Raises UserError or BadInput otherwise."""
    if wanted is not None:
        if wanted not in features.schema.names:
            message = f"{source} has no column `label_column={wanted!r}`: its columns are {features.described()}"
            raise UserError(message, settings=("data.label_column",))
        return wanted
    if len(columns) == 1:
        return columns[0]
    which = (
        f"several columns of classes: {', '.join(columns)}" if columns else "no column that is recognised as the class"
    )
    raise BadInput(
        f"{source} has {which}. Its columns are {features.described()}. Name one with `label_column`",
        settings=("data.label_column",),
    )


def usual(names: Iterable[str], usual: Sequence[str]) -> list[str]:
    """The names that are usual, in that order."""
    found = [name for name in names if plain_name(name) in usual]
    return sorted(found, key=lambda name: usual.index(plain_name(name)))


def _is_image(column: Any, kind: Any) -> bool:
    import pyarrow as pa

    if kind is not None:
        return isinstance(kind, dict) and kind.get("_type") == "Image"
    if pa.types.is_struct(column.type):
        return column.type.get_field_index("bytes") >= 0 and pa.types.is_binary(column.type.field("bytes").type)
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    return is_bytes and plain_name(column.name) in IMAGES + MASKS


def _is_scalar(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(test(kind) for test in (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string,
                                       pa.types.is_large_string))  # fmt: skip


def _objects(schema: Any, images: Sequence[str]) -> tuple[str | None, dict[str, str]]:
    """The column of boxes, and the columns beside it."""
    import pyarrow as pa

    for name in schema.names:
        kind = schema.field(name).type
        record = kind.value_type if _is_list(kind) and pa.types.is_struct(kind.value_type) else kind
        if name in images or not pa.types.is_struct(record):
            continue
        fields = [record.field(i).name for i in range(record.num_fields)]
        if found := usual(fields, BOXES):
            return f"{name}.{found[0]}", {other: f"{name}.{other}" for other in fields if other != found[0]}
    found = [name for name in usual(schema.names, BOXES) if _is_list(schema.field(name).type)]
    found = [name for name in found if _is_list(schema.field(name).type.value_type)]
    if not found:
        return None, {}
    return found[0], {name: name for name in schema.names if name != found[0] and _is_list(schema.field(name).type)}


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _type(kind: Any) -> dict[str, Any]:
    return kind if isinstance(kind, dict) else {}


def _within(kind: Any, part: str) -> Any:
    """The type of a field in a list of records, or in a record of lists."""
    kind = _type(kind)
    return _within(kind["feature"], part) if "feature" in kind else kind.get(part)


def _innermost(kind: Any) -> dict[str, Any]:
    """The type of the elements of lists."""
    kind = _type(kind)
    return _innermost(kind["feature"]) if "feature" in kind else kind


def _names(kind: dict[str, Any]) -> tuple[str, ...] | None:
    names = kind.get("names")
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _stored_types(schema: Any) -> dict[str, Any]:
    """The types that the library stores in the file."""
    try:
        content = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        types = content["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return types if isinstance(types, dict) else {}


def _types_of_card(root: Path, columns: Sequence[str]) -> dict[str, Any]:
    """The classes that the card of a repository states, for files that other tools wrote."""
    places = [root, root.parent] if root.is_file() else [root, *root.parents[:2]]
    card = next((path / _CARD for path in places if (path / _CARD).is_file()), None)
    if card is None:
        return {}
    with card.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_CARD_BYTES)
    if not text.startswith("---"):
        return {}
    try:
        content = yaml.safe_load(text.split("\n---", 1)[0].removeprefix("---"))
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    described = _type(content).get("dataset_info")
    for info in described if isinstance(described, list) else [described]:
        listed = _type(info).get("features")
        types = {f.get("name"): _of_card(f) for f in listed if isinstance(f, dict)} if isinstance(listed, list) else {}
        if types.keys() >= set(columns):
            return {name: kind for name, kind in types.items() if isinstance(name, str)}
    return {}


def _of_card(entry: dict[str, Any]) -> dict[str, Any]:
    """The type of a column in the words of a card, as the library stores it."""
    kind = entry.get("dtype")
    if kind == "image":
        return {"_type": "Image"}
    names = _type(_type(_type(kind).get("class_label")).get("names"))
    if names and all(str(key).isdecimal() for key in names):
        return {"_type": "ClassLabel", "names": [names[key] for key in sorted(names, key=lambda key: int(str(key)))]}
    inner = next((entry[key] for key in ("sequence", "list", "struct") if isinstance(entry.get(key), list)), None)
    if inner is not None:
        return {str(e.get("name")): _of_card(e) for e in inner if isinstance(e, dict)}
    return _of_card({"dtype": entry["sequence"]}) if isinstance(entry.get("sequence"), dict) else {"_type": "Value"}
