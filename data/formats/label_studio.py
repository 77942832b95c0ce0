"""Label Studio: its JSON or JSON-MIN export, a list of tasks with results in percent of the image size.

Rectangles and ellipses may be turned; their box is the smallest around them. Brushes and key points have no box and are
left out. Of several annotations of a task, the one that is marked as ground truth counts, else the first that was not
cancelled. Predictions are no labels. The export has no images: they are searched by their names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats import Format, Sniffed, Split
from data.formats.box_table import BoxTable
from data.formats.image_files import parts_of
from data.formats.records import Record, read_json, shown, start_of
from data.formats.shapes import Box, around, ellipse, turned
from data.formats.split_files import any_file, file_of, find_files, images_of, name_in, unnamed
from data.images import IMAGE_SUFFIXES
from data.options import BoxOptions

SUFFIXES = (".json",)
LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels", "hypertextlabels")
WITHOUT_BOX = ("brushlabels", "keypointlabels", "bitmasklabels", "vectorlabels")


def sniff(root: Path) -> Sniffed | None:
    """A JSON list of tasks with annotations."""
    file = root if root.is_file() and _is_label(root) else any_file(root, _is_label, SUFFIXES)
    return Sniffed(0.85, f"{file.name} is an export of Label Studio") if file else None


def splits(root: Path) -> list[str]:
    """The splits that have a file."""
    return list(find_files(root, _is_label, SUFFIXES))


def read(split: Split, options: BoxOptions) -> BoxColumns:
    """Images and boxes of a file."""
    file = file_of(split, _is_label, SUFFIXES)
    tasks = [_task(task, Record(file, f"task {i}")) for i, task in enumerate(_list(file))]
    if not tasks:
        raise BadInput(f"{file} lists no tasks")
    written_names = [_written_names(written) for _, written, _ in tasks]
    images = images_of(file, split, [name for names in written_names for name in names], bool(options.follow_links))
    table, named = BoxTable(file), set()
    for (record, written, results), names in zip(tasks, written_names, strict=True):
        # An export has addresses, not paths: of those that are not found, the last part is the name.
        found = next((found for name in names if (found := images.find(name)) is not None), None)
        name = found or name_in(images, parts_of(written)[-1], record)
        if name in named:
            record.fail(f"is the second task with the image {name}")
        named.add(name)
        image = table.image(name)
        _add(results, image, name, table, record)
    left_out = unnamed(images, named, file, len(find_files(split.root, _is_label, SUFFIXES)) < 2)
    return table.columns(images.folder, left_out=left_out)


FORMAT = Format(
    name="label-studio",
    kind="boxes",
    layout="ROOT/{train,val}.json, JSON exports of Label Studio, or a single one, with images in ROOT/images/",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _list(file: Path) -> list[Any]:
    tasks = read_json(file)
    if not isinstance(tasks, list):
        raise BadInput(f"{file} is {shown(tasks)}, not Label Studio's list of tasks")
    return tasks


def _task(task: Any, record: Record) -> tuple[Record, str, list[Any]]:
    """Where the task is, its image, and its results."""
    task = record.mapping(task)
    data = record.mapping(task.get("data", task))
    texts = [value for value in (data.get("image"), data.get("img"), *data.values()) if isinstance(value, str)]
    written = [text for text in texts if (parts := parts_of(text)) and parts[-1].lower().endswith(IMAGE_SUFFIXES)]
    if not written:
        record.fail("has no image in its data")
    if "data" in task:
        return record, written[0], _results(task, record)
    # JSON-MIN has the results of each tag under its name.
    lists = [value for value in task.values() if isinstance(value, list)]
    results = [{"value": item} | item for items in lists for item in items if isinstance(item, dict)]
    return record, written[0], [result for result in results if "x" in result or "points" in result]


def _results(task: dict[str, Any], record: Record) -> list[Any]:
    found = [
        record.mapping(a) for a in record.sequence(task.get("annotations", task.get("completions")), "annotations")
    ]
    valid = [a for a in found if not a.get("was_cancelled")]
    chosen = next((a for a in valid if a.get("ground_truth")), valid[0] if valid else {})
    return record.sequence(chosen.get("result"), "result")


def _add(results: list[Any], image: int, name: str, table: BoxTable, task: Record) -> None:
    """Add the boxes of a task's results."""
    labelled = {
        shown(result.get("id")) for result in results if isinstance(result, dict) and _labels(result.get("value"))
    }
    for number, result in enumerate(results):
        record = Record(task.file, f"{task.name}, result {number}")
        value = record.mapping(result).get("value")
        if not isinstance(value, dict):  # a relation
            continue
        if without := next((key for key in WITHOUT_BOX if key in value), None):
            table.skipped[without] += 1
        elif "x" in value or "points" in value:
            size = record.size(result.get("original_height"), result.get("original_width"))
            if 0 in size:
                record.fail("has no original_width and original_height, of which its numbers are percents")
            if result.get("image_rotation"):
                record.fail("was drawn on a turned image (image_rotation), which is not supported")
            table.image(name, size)
            labels = _labels(value)
            # A shape and its label can be two results with one id: the second has both.
            if not labels and shown(result.get("id")) not in labelled:
                table.skipped["shape without a class"] += 1
            for label in labels:
                table.box(image, record.label(label, "class"), _box(value, size, record))


def _labels(value: Any) -> list[Any]:
    """The classes of a shape; several if the project allows that."""
    found: Any = next((value[key] for key in LABELS if key in value), []) if isinstance(value, dict) else []
    return found if isinstance(found, list) else [found]


def _box(value: dict[str, Any], size: tuple[int, int], record: Record) -> Box:
    height, width = size

    def number(key: str, whole: float = 100.0) -> float:
        return record.number(value.get(key), key) * whole / 100

    degrees = record.number(value.get("rotation") or 0, "rotation")
    if "points" in value:
        return around((x * width / 100, y * height / 100) for x, y in record.points(value["points"], "points"))
    x, y = number("x", width), number("y", height)
    if "radiusX" in value:
        return ellipse((x, y), (number("radiusX", width), number("radiusY", height)), degrees)
    return turned((x, y, x + number("width", width), y + number("height", height)), degrees, pivot=(x, y))


def _written_names(written: str) -> list[str]:
    """The name in the export, and the original name of an uploaded file, which Label Studio prefixes."""
    match = re.match(r"[0-9a-f]{8}-(.+)", parts_of(written)[-1])
    return [written, match[1]] if match else [written]


def _is_label(file: Path) -> bool:
    start = start_of(file).lstrip()
    return start.startswith("[") and any(f'"{key}"' in start for key in ("annotations", "completions", *LABELS[:3]))
