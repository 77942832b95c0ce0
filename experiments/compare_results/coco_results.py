"""Reads COCO's results format, as detectors of many tools write it: a list of detections in one JSON file.

Each detection has `image_id`, `category_id`, `bbox` (x, y, width, height in original px) and `score`; newer files of
Ultralytics have `file_name`, too. Every value is checked here.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
from msgspec import UNSET, Struct

from backbones.errors import BadInput
from data.formats.coco_json import collector_paused
from data.formats.coco_records import LARGEST
from data.formats.records import read_bytes, shown


@dataclass(frozen=True)
class Detections:
    """The N detections of a file.

    Attributes:
        file: for messages.
        image_ids: N whole numbers or texts. A text of digits stays a text: it may be a file name.
        file_names: N texts; None if not all detections have one.
        category_ids: (N,) int64.
        boxes: (N, 4) float64, x, y, width, height in original px. Width and height are not negative.
        scores: (N,) float64, finite.
    """

    file: Path
    image_ids: Sequence[int | str]
    file_names: Sequence[str] | None
    category_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class _Detection(Struct, gc=False):
    image_id: Any = UNSET
    category_id: Any = UNSET
    bbox: Any = UNSET
    score: Any = UNSET
    file_name: Any = UNSET


@collector_paused()
def read_detections(file: Path) -> Detections:
    """The detections of a results file. Raises BadInput with the file, the detection and the cause."""
    records = _records(file)
    boxes = _boxes(records, file)
    names = [record.file_name for record in records]
    return Detections(
        file=file,
        image_ids=_image_ids(records, file),
        file_names=names if names and all(isinstance(name, str) for name in names) else None,
        category_ids=_whole_numbers(records, "category_id", file),
        boxes=boxes,
        scores=_numbers(records, "score", file),
    )


def fail(file: Path, index: int, problem: str) -> NoReturn:
    """Raise BadInput for a detection."""
    raise BadInput(f"{file}: detection {index} {problem}")


def _records(file: Path) -> list[_Detection]:
    if file.is_dir():
        raise BadInput(f"{file} is a folder: pass a JSON file of detections, such as the detections.json of a run")
    if file.suffix.lower() in (".pth", ".pt", ".pkl", ".pickle"):
        raise BadInput(f"{file} is not JSON: pass the tool's COCO results, a JSON list of detections")
    content = read_bytes(file).removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(content, type=list[_Detection])
    except (msgspec.MsgspecError, RecursionError, ValueError):
        pass  # Python's parser also accepts NaN and Infinity, and what is not a list of objects is explained below
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}") from error
    if isinstance(document, dict) and isinstance(document.get("annotations"), list):
        raise BadInput(
            f"{file} is a COCO file of objects, not of detections: results are a JSON list of objects with image_id, "
            "category_id, bbox and score"
        )
    if not isinstance(document, list):
        raise BadInput(f"{file} is a JSON {type(document).__name__}, not a list of detections")
    fields = _Detection.__struct_fields__
    records = []
    for index, record in enumerate(document):
        if not isinstance(record, dict):
            fail(file, index, f"is {shown(record)}, not an object")
        records.append(_Detection(**{field: record[field] for field in fields if field in record}))
    return records


def _values(records: Sequence[_Detection], key: str, file: Path) -> list[Any]:
    values = list(map(attrgetter(key), records))
    absent = next((i for i, value in enumerate(values) if value is UNSET), None)
    if absent is not None:
        fail(
            file, absent, f"has no {key}. A detection has image_id, category_id, bbox and score; masks are not compared"
        )
    return values


def _image_ids(records: Sequence[_Detection], file: Path) -> list[int | str]:
    found: list[int | str] = []
    for index, value in enumerate(_values(records, "image_id", file)):
        if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            fail(file, index, f"has image_id {shown(value)}, which is neither a whole number nor a file name")
        found.append(value)
    return found


def _whole_numbers(records: Sequence[_Detection], key: str, file: Path) -> np.ndarray:
    values = _values(records, key, file)
    column = _as_numbers(values, (len(values),))
    if column is None or not (column == np.round(column)).all() or (np.abs(column) > LARGEST).any():
        index = next(i for i, value in enumerate(values) if not _is_whole(value))
        fail(file, index, f"has {key} {shown(values[index])}, not a whole number")
    return column.astype(np.int64)


def _numbers(records: Sequence[_Detection], key: str, file: Path) -> np.ndarray:
    values = _values(records, key, file)
    column = _as_numbers(values, (len(values),))
    if column is None:
        index = next(i for i, value in enumerate(values) if _as_numbers([value], (1,)) is None)
        fail(file, index, f"has {key} {shown(values[index])}, not a finite number")
    return column


def _boxes(records: Sequence[_Detection], file: Path) -> np.ndarray:
    values = _values(records, "bbox", file)
    boxes = _as_numbers(values, (len(values), 4))
    if boxes is None:
        index = next(i for i, value in enumerate(values) if _as_numbers([value], (1, 4)) is None)
        fail(file, index, f"has bbox {shown(values[index])}, not four finite numbers x, y, width, height")
    huge = (np.abs(boxes) > LARGEST).any(1)
    if huge.any():
        fail(file, int(huge.argmax()), f"has bbox {shown(values[int(huge.argmax())])}, beyond any image")
    negative = (boxes[:, 2:] < 0).any(1)
    if negative.any():
        index = int(negative.argmax())
        fail(
            file,
            index,
            f"has bbox {shown(values[index])}, with a negative width or height, as have {int(negative.sum())} of "
            f"{len(boxes)} detections. COCO's boxes are x, y, width, height, not two corners",
        )
    return boxes


def _as_numbers(values: list[Any], shape: tuple[int, ...]) -> np.ndarray | None:
    """The values as float64 of this shape; None if one of them is no finite number."""
    if not values:
        return np.zeros(shape)
    try:
        column = np.array(values)
    except (ValueError, OverflowError):
        return None  # lists of different lengths
    if column.dtype.kind not in "iuf" or column.shape != shape:
        return None
    column = column.astype(np.float64)
    return column if np.isfinite(column).all() else None


def _is_whole(value: Any) -> bool:
    number = _as_numbers([value], (1,))
    return number is not None and bool(number[0] == round(number[0])) and abs(number[0]) <= LARGEST
