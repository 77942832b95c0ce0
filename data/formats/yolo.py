"""YOLO's label files: a text file per image, with a line CLASS CX CY WIDTH HEIGHT for each object.

Coordinates are fractions of the image size. Lines with more numbers are polygons, whose boxes are used; a number after
the box or polygon is a confidence, which is ignored. An image without a label file has no objects.

The images of a split are those of its folder or list in the configuration (see `yolo_config`); `yolo_images` finds
their label files. Without a configuration, the folders are those of `label_files`, and the class names are in
classes.txt.

The label files state no image size. Fractions become pixels by the size of the file, as it is stored or, with
`exif="apply"`, upright.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats import Format, Sniffed, Split
from data.formats.box_table import BoxTable
from data.formats.image_files import PEEK, files_in, folders_in
from data.formats.label_files import find_splits, folder_of, label_files
from data.formats.records import Record, read_text
from data.formats.shapes import around
from data.formats.yolo_config import Config, configs_in, find_config, find_names, is_config, read_config
from data.formats.yolo_images import LabelledImages, images_of_folder, is_label, is_list, listed_images, parallel_labels
from data.options import BoxOptions
from data.scan import scan

FURTHEST = 2.0  # largest fraction; the boxes of some tools leave the image a little. Larger numbers are pixels.

log = logging.getLogger(__name__)


def sniff(root: Path) -> Sniffed | None:
    """A configuration, a list of images, or label files beside or parallel to images."""
    if root.is_file():
        if is_config(root):
            return Sniffed(0.9, f"{root.name} is a YOLO configuration")
        return Sniffed(0.8, f"{root.name} is a list of images") if is_list(root) else None
    if any(configs_in(folder) for folder in (root, *folders_in(root)[:PEEK])):
        return Sniffed(0.9, "it has a YOLO configuration")
    found = [place.labels for place in find_splits(root, is_label, ".txt").values()] or parallel_labels(root)
    return Sniffed(0.7, f"{found[0]} has YOLO label files") if found else None


def splits(root: Path) -> list[str]:
    """The splits of the configuration, or the folders with label files.

    Many configurations name a test split that was not exported: it is a split only if it exists.
    """
    config = _config(root)
    if config is None or not config.splits:
        return list(find_splits(root, is_label, ".txt"))
    return [name for name in config.splits if name not in ("test", "minival") or config.exists(name)]


def read(split: Split, options: BoxOptions) -> BoxColumns:
    """Images and boxes of a split."""
    follow = bool(options.follow_links)
    config = _config(split.root) or _config_above(split.root)
    if split.name and config is not None and split.name in config.splits:
        images = listed_images(config, config.files(split.name, follow), follow)
    elif split.root.is_file() and is_list(split.root):
        config = config or Config(split.root, {})
        images = listed_images(config, [split.root], follow)
    elif split.root.is_file():
        raise BadInput(f"{split.root} names several splits: name it as `root`", settings=("data.root",))
    elif not split.name and split.images is None and (labels := parallel_labels(split.root)):
        config = config or _named_by_numbers(labels[0])
        images = listed_images(config, [split.root], follow)
    else:
        place = folder_of(split, is_label, ".txt")
        config = config or _named_by_numbers(place.labels)
        images = images_of_folder(place, follow)
    columns = _read_labels(images, config)
    return _in_pixels(columns, upright=options.exif == "apply")


FORMAT = Format(
    name="yolo",
    kind="boxes",
    layout="""
        ROOT/data.yaml (names, train, val) with images in ROOT/images/{train,val}/ or ROOT/{train,val}/images/ and
        label files in labels/ instead of images/; or these folders with ROOT/classes.txt""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _read_labels(images: LabelledImages, config: Config) -> BoxColumns:
    """The columns with boxes as fractions. Classes are those of the configuration."""
    table = BoxTable(images.source)
    present = {folder: _text_files(folder) for folder in {path.parent for path in images.labels.values()}}
    files = {name: present[path.parent].get(path.stem) for name, path in images.labels.items()}
    if not any(files.values()):
        searched = ", ".join(sorted({str(path.parent) for path in images.labels.values()})[:3])
        raise BadInput(
            f"none of the {len(images.labels)} images in {images.folder} has a label file; searched: {searched}"
        )
    for name, file in files.items():
        image = table.image(name)
        if file is not None:
            _read_file(file, image, table, config)
    ids = list(config.names)
    return table.columns(images.folder, list(config.names.values()), ids, images.left_out)


def _read_file(path: Path, image: int, table: BoxTable, config: Config) -> None:
    names = config.names
    for number, line in enumerate(read_text(path).splitlines(), 1):
        tokens = line.split()
        if not tokens:
            continue
        record = Record(path, f"line {number}")
        values = [record.number(token, "a value") for token in tokens]
        kind, coordinates = values[0], values[1:]
        if len(coordinates) < 4:
            record.fail(f"has {len(values)} numbers, not a class and a box or polygon")
        if not kind.is_integer():
            record.fail(f"has the class {tokens[0]}, not a whole number")
        # A number after the box or after the pairs of a polygon is a confidence.
        is_box = config.keypoints or len(coordinates) <= 5
        coordinates = coordinates[: 4 if is_box else len(coordinates) // 2 * 2]
        if any(FURTHEST < abs(value) < math.inf for value in coordinates):
            record.fail(f"has {max(coordinates, key=abs):g} where fractions of the image size from 0 to 1 are expected")
        label = int(kind)
        if label not in names:
            record.fail(f"has the class {label}, but {config.file} names {len(names)} classes, {_range(names)}")
        if is_box:
            x, y, width, height = coordinates
            box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        else:
            box = around(zip(coordinates[::2], coordinates[1::2], strict=True))
        table.box(image, names[label], box)


def _range(names: Iterable[int]) -> str:
    return f"{min(names, default=0)} to {max(names, default=0)}"


def _in_pixels(columns: BoxColumns, upright: bool) -> BoxColumns:
    headers = scan(columns, np.arange(len(columns)))
    sizes = headers.upright_sizes if upright else headers.sizes
    with np.errstate(invalid="ignore"):
        boxes = columns.boxes * sizes[columns.image][:, [1, 0, 1, 0]]
    return replace(columns, boxes=boxes, sizes=sizes, sizes_of_files=True)


def _config(root: Path) -> Config | None:
    """The configuration at `root`, in it, or in the only folder in it that has one; None if there is none."""
    if root.is_file():
        return read_config(root) if is_config(root) else None
    file = find_config(root)
    if file is None:
        inner = [found[0] for folder in folders_in(root)[:PEEK] if (found := configs_in(folder))]
        file = inner[0] if len(inner) == 1 else None
    return read_config(file) if file is not None else None


def _config_above(root: Path) -> Config | None:
    """The configuration or class names in the folders around a split's folder or list."""
    folders = [root, *root.absolute().parents[:3]] if root.is_dir() else list(root.absolute().parents[:3])
    inner = folders_in(root)[:PEEK]
    below = [folder for first in inner for folder in folders_in(first)[:PEEK]]
    if (found := find_names([*folders[:1], *inner, *below])) is not None:
        return found
    for folder in folders[1:] if root.is_dir() else folders:
        if len(configs := configs_in(folder)) == 1:
            return read_config(configs[0])
        if (found := find_names([folder, folder / "labels"])) is not None:
            return found
    return None


def _named_by_numbers(labels: Path) -> Config:
    """Classes called by their numbers, for label files without a list of names."""
    numbers = set()
    for _, path in label_files(labels, ".txt"):
        if is_label(path):
            numbers |= {token for line in read_text(path).splitlines() if (token := line.partition(" ")[0])}
    found = sorted({int(float(token)) for token in numbers if token.replace(".", "", 1).isdigit()})
    if not found:
        raise BadInput(f"{labels} has no objects and no list of class names; expected data.yaml or classes.txt")
    log.warning("%s has no list of class names (data.yaml or classes.txt): classes are called by their numbers", labels)
    return Config(labels, {number: str(number) for number in range(found[-1] + 1)})


def _text_files(folder: Path) -> dict[str, Path]:
    """The text files in a folder by their names without suffix."""
    return {file.stem: file for file in files_in(folder, (".txt",))}
