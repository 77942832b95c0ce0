"""Pascal VOC: an XML file per image, as VOC's own data and many labelling tools have it.

    ROOT/JPEGImages/, ROOT/Annotations/ and lists of names in ROOT/ImageSets/Main/{train,val}.txt
    or XML files beside the images, or in a folder next to that of the images, with or without split folders

Coordinates. In VOC's own data, pixels count from 1 and the last pixel belongs to the box: (1, 1, W, H) is the whole
image, so 1 is subtracted from xmin and ymin (VOC2012 development kit, section 7; detectron2 does the same). Only files
whose <source> names a database of VOC are read so, and only if none of the split has an xmin or ymin of 0. Other tools,
such as labelImg, CVAT and Roboflow, write the edges of the box: these are read as they are.

Difficult objects are training targets. In scoring they are neither required nor counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats import Format, Sniffed, Split
from data.formats.box_table import BoxTable, natural
from data.formats.coco_json import is_safe
from data.formats.image_files import ImageFiles, files_in, folders_in, parts_of
from data.formats.label_files import Pairs, find_splits, pairs_of
from data.formats.records import Record, read_text, read_xml, start_of, text_of
from data.formats.shapes import Box, around, turned
from data.images import IMAGE_SUFFIXES
from data.options import BoxOptions

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_OWN = re.compile(r"PASCAL VOC ?20\d\d|The VOC ?20\d\d Database", re.IGNORECASE)
_TRUE = ("1", "true", "yes")


def sniff(root: Path) -> Sniffed | None:
    """Lists in ImageSets/Main, or XML files with annotations."""
    if root.is_dir() and _image_sets(root):
        return Sniffed(0.9, f"{root / 'ImageSets' / 'Main'} has lists of images")
    if root.is_dir() and (found := find_splits(root, _is_label, ".xml")):
        return Sniffed(0.8, f"{next(iter(found.values())).labels} has Pascal VOC XML files")
    return None


def splits(root: Path) -> list[str]:
    """Names of the lists in ImageSets/Main, or of the folders with XML files."""
    return list(_image_sets(root)) or list(find_splits(root, _is_label, ".xml"))


def read(split: Split, options: BoxOptions) -> BoxColumns:
    """Images and boxes of a split. Classes are those of labelmap.txt, then those of all splits, sorted by name."""
    follow = bool(options.follow_links)
    if split.name in _image_sets(split.root):
        pairs, listed = _listed(split, follow), _label_map(split.root)
    else:
        pairs, listed = pairs_of(split, _is_label, ".xml", _written_name, follow), ()
    table = BoxTable(pairs.source)
    own = {name: _read_file(file, name, table) for name, file in pairs.files.items()}
    found = {*table.labels, *(name for file in pairs.other_files for name in _classes(file))}
    classes = [*listed, *sorted(found - set(listed), key=natural)]
    columns = table.columns(pairs.images.folder, classes, left_out=pairs.left_out)
    return _from_one(columns, np.array([own[name] for name in columns.names])[columns.image])


FORMAT = Format(
    name="voc",
    kind="boxes",
    layout="""
        ROOT/JPEGImages/ with images, ROOT/Annotations/ with an XML file for each, and lists of their names in
        ROOT/ImageSets/Main/{train,val}.txt; or XML files beside the images in ROOT/{train,val}/""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _image_sets(root: Path) -> dict[str, Path]:
    """The list of each split. Lists of single classes, with 1 or -1 for each image, are not splits."""
    found = {}
    folder = root / "ImageSets"
    for file in files_in(folder / "Main" if (folder / "Main").is_dir() else folder, (".txt",)):
        if not _is_class_list(file):
            found[file.stem] = file
    return {"train": next(iter(found.values()))} if list(found) == ["default"] else found  # CVAT's name for all images


def _is_class_list(file: Path) -> bool:
    lines = [line for line in start_of(file).splitlines()[:10] if line.strip()]
    return bool(lines) and all(re.search(r"\s-?[01]\s*$", line) for line in lines)


def _listed(split: Split, follow: bool) -> Pairs:
    """The images of a list in ImageSets/Main."""
    lists = _image_sets(split.root)
    folders = {folder.name.lower(): folder for folder in folders_in(split.root)}
    xml_folder = folders.get("annotations", split.root)
    images = ImageFiles(folders.get("jpegimages", folders.get("images", split.root)), follow)
    files, source = {}, lists[split.name]
    absent = []
    for number, line in enumerate(read_text(source).splitlines(), 1):
        stem = line.strip().strip('"')
        if not stem:
            continue
        if not is_safe(stem.replace("\\", "/")):
            Record(source, f"line {number}").fail(f"is {stem!r}, not the name of an image: refused")
        stem = "/".join(parts_of(stem))
        stem = stem.removesuffix(".xml") if stem.lower().endswith(".xml") else stem
        file = xml_folder / f"{stem}.xml"
        if not file.is_file():
            file = xml_folder / f"{stem.rpartition('.')[0]}.xml"
        if file.is_file():
            files[images.find(stem) or images.of_stem(stem) or f"{stem}{IMAGE_SUFFIXES[0]}"] = file
        else:
            absent.append(stem)
    if absent:
        raise BadInput(
            f"{len(absent)} of {len(absent) + len(files)} images in {source} have no XML file in {xml_folder}: "
            f"{', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}"
        )
    others = sorted(set(_names_of(lists, split.name, xml_folder)) - set(files.values()))
    return Pairs(source, images, files, {}, others)


def _names_of(lists: dict[str, Path], without: str, xml_folder: Path) -> Iterator[Path]:
    """XML files of the images in the other lists."""
    for name, file in lists.items():
        if name != without:
            for line in read_text(file).splitlines():
                stem = line.strip().strip('"')
                if stem and is_safe(stem) and (path := xml_folder / f"{stem}.xml").is_file():
                    yield path


def _label_map(root: Path) -> tuple[str, ...]:
    """Class names in CVAT's labelmap.txt, lines NAME:COLOUR:PARTS:ACTIONS, without the background."""
    file = root / "labelmap.txt"
    lines = read_text(file).splitlines() if file.is_file() else []
    names = [line.rsplit(":", 3)[0].strip() for line in lines if line.count(":") >= 3 and not line.startswith("#")]
    return tuple(name for name in dict.fromkeys(names) if name and name != "background")


def _written_name(file: Path) -> str:
    return text_of(read_xml(file), "filename") or ""


def _read_file(file: Path, name: str, table: BoxTable) -> bool:
    """Add an image and its boxes. Returns whether the file is from VOC's own data."""
    root = read_xml(file)
    size = Record(file, "<size>").size(text_of(root, "size/height"), text_of(root, "size/width"))
    image = table.image(name, size)
    for number, element in enumerate(root.findall("object"), 1):
        record = Record(file, f"object {number}")
        if (text_of(element, "deleted") or "0") in _TRUE:  # LabelMe keeps objects that were removed
            continue
        label = record.label(text_of(element, "name"), "name")
        difficult = (text_of(element, "difficult") or "0").lower() in _TRUE
        box = _box(element, record)
        if box is None:
            record.fail("has no <bndbox>")
        table.box(image, label, box, difficult=difficult)
    return any(_OWN.search(text_of(root, path) or "") for path in ("source/annotation", "source/database"))


def _box(element: Element, record: Record) -> Box | None:
    """The box of an object: <bndbox>; roLabelImg's <robndbox>, turned by an angle; or LabelMe's polygon."""
    if (found := element.find("bndbox")) is not None:
        x1, y1, x2, y2 = (record.number(text_of(found, key), key) for key in CORNERS)
        return x1, y1, x2, y2
    if (found := element.find("robndbox")) is not None:
        keys = ("cx", "cy", "w", "h", "angle")
        x, y, width, height, angle = (record.number(text_of(found, key), key) for key in keys)
        return turned((x - width / 2, y - height / 2, x + width / 2, y + height / 2), float(np.degrees(angle)))
    points = element.findall("polygon/pt")
    if points:
        return around((record.number(text_of(pt, "x"), "x"), record.number(text_of(pt, "y"), "y")) for pt in points)
    return None


def _classes(file: Path) -> set[str]:
    """Class names in an XML file of another split. That split reports a damaged file."""
    try:
        names = [text_of(element, "name") for element in read_xml(file).findall("object")]
    except BadInput:
        return set()
    return {name for name in names if name}


def _from_one(columns: BoxColumns, own: np.ndarray) -> BoxColumns:
    """VOC's own boxes, which count pixels from 1, as edges. `own`: (N,) bool, in the order of the columns."""
    with np.errstate(invalid="ignore"):
        if not own.any() or (columns.boxes[own, :2] < 1).any():
            return columns
    boxes = columns.boxes.copy()
    boxes[own, :2] -= 1
    return replace(columns, boxes=boxes)


def _is_label(file: Path) -> bool:
    return "<annotation" in (start := start_of(file)) and "<annotations" not in start
