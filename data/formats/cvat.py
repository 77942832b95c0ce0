"""CVAT for images 1.1: an XML file with the images of a task or project, their shapes and their subsets.

Boxes and ellipses may be turned; their box is the smallest around them. Tags, points and polylines have no box and are
left out. The classes are the labels of the task, in its order. Subsets are splits; without them all images are `train`.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats import Format, Sniffed, Split
from data.formats.box_table import BoxTable
from data.formats.records import Record, read_xml, start_of
from data.formats.shapes import Box, around, ellipse, turned
from data.formats.split_files import any_file, file_of, find_files, images_of, name_in, unnamed
from data.options import BoxOptions

SUFFIXES = (".xml",)
LABELS = ("meta/task/labels/label/name", "meta/project/labels/label/name", "meta/job/labels/label/name")


def sniff(root: Path) -> Sniffed | None:
    """An XML file that starts as CVAT's does."""
    file = root if root.is_file() and _is_label(root) else any_file(root, _is_label, SUFFIXES)
    return Sniffed(0.9, f"{file.name} is a file of CVAT for images") if file else None


def splits(root: Path) -> list[str]:
    """The splits that have a file, or the subsets of a single file."""
    files = {"train": root} if root.is_file() else find_files(root, _is_label, SUFFIXES)
    subsets = _subsets(read_xml(files["train"])) if list(files) == ["train"] else []
    return subsets or ([] if root.is_file() else list(files))


def read(split: Split, options: BoxOptions) -> BoxColumns:
    """Images and boxes of a file, or of one subset in it."""
    file = file_of(split, _is_label, SUFFIXES)
    root = read_xml(file)
    if root.find("track") is not None:
        raise BadInput(f"{file} has tracks of a video: export the task as CVAT for images 1.1, with its images")
    elements = list(enumerate(root.findall("image")))
    subsets = _subsets(root)
    if split.name in subsets:
        elements = [(i, element) for i, element in elements if _subset(element) == split.name]
    if not elements:
        raise BadInput(f"{file} lists no images")
    names = []
    for number, element in elements:
        names.append(element.get("name") or Record(file, f"image {number}").fail("has no name"))
    images = images_of(file, split, names, bool(options.follow_links))
    table, named = BoxTable(file), set()
    for (number, element), written in zip(elements, names, strict=True):
        record = Record(file, f"image {number}")
        name = name_in(images, written, record)
        named.add(name)
        image = table.image(name, record.size(element.get("height"), element.get("width")))
        for index, shape in enumerate(element):
            where = Record(file, f"image {number}, {shape.tag} {index}")
            box = _box(shape, where)
            if box is not None:
                table.box(image, where.label(shape.get("label"), "label"), box)
            elif shape.tag != "tag":  # a class of the image
                table.skipped[shape.tag] += 1
    labels = [text for path in LABELS for found in root.findall(path) if (text := (found.text or "").strip())]
    alone = len(subsets) < 2 and len(find_files(split.root, _is_label, SUFFIXES)) < 2
    left_out = unnamed(images, named, file, alone)
    return table.columns(images.folder, list(dict.fromkeys(labels)), left_out=left_out)


FORMAT = Format(
    name="cvat",
    kind="boxes",
    layout="ROOT/annotations.xml of CVAT for images 1.1, with its images in ROOT/images/; subsets are splits",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _subset(element: Element) -> str:
    return (element.get("subset") or "").lower()


def _subsets(root: Element) -> list[str]:
    """Names of the subsets in lower case; none for the default one alone."""
    found = sorted({_subset(element) for element in root.findall("image")} - {""})
    return [] if found == ["default"] else found


def _box(shape: Element, record: Record) -> Box | None:
    def number(key: str, default: str | None = None) -> float:
        return record.number(shape.get(key, default), key)

    match shape.tag:
        case "box":
            return turned((number("xtl"), number("ytl"), number("xbr"), number("ybr")), number("rotation", "0"))
        case "ellipse":
            return ellipse((number("cx"), number("cy")), (number("rx"), number("ry")), number("rotation", "0"))
        case "mask":
            x, y = number("left"), number("top")
            return x, y, x + number("width"), y + number("height")
        case "polygon":
            pairs = [text.split(",") for text in (shape.get("points") or "").split(";")]
            return around(record.points([list(pair) for pair in pairs], "points"))
        case "cuboid":
            keys = [key for key in shape.attrib if key[0] == "x" and key[1:3] in ("tl", "tr", "bl", "br")]
            if not keys:
                record.fail("has no corners")
            return around((number(key), number(f"y{key[1:]}")) for key in keys)
    return None  # points, polylines and skeletons


def _is_label(file: Path) -> bool:
    return "<annotations" in start_of(file)
