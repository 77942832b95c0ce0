"""Tiny ImageNet as it is published. Its test images have no labels.

ROOT/train/SYNSET/images/*.JPEG, and ROOT/val/images/*.JPEG with their classes in ROOT/val/val_annotations.txt
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import ClassColumns, digest_of
from data.formats import Format, Sniffed, Split, folders
from data.formats.folders import indexed
from data.formats.listing import NO_IMAGE, has_images, list_images
from data.formats.tables import read_table
from data.names import Names
from data.options import ClassOptions

LABELS = "val_annotations.txt"
BOXES = "_boxes.txt"  # end of the names of files with boxes, one in each class folder


def sniff(root: Path) -> Sniffed | None:
    """The label file, and the images beside it."""
    if not splits(root):
        return None
    return Sniffed(0.9, f"val/{LABELS} has the classes of the images in val/images")


def splits(root: Path) -> list[str]:
    """`train` and `val`, if the validation images are where they were published."""
    labels, images = root / "val" / LABELS, root / "val" / "images"
    return ["train", "val"] if labels.is_file() and images.is_dir() and has_images(images) else []


def read(split: Split, options: ClassOptions) -> ClassColumns:
    """Images in folders, or with their classes in a file of lines FILE, SYNSET and a box, separated by tabs."""
    if split.name == "train":
        columns = folders.read(split, options)
        others = [name for name in columns.left_out.get(NO_IMAGE, []) if not name.endswith(BOXES)]
        return replace(columns, left_out=columns.left_out | {NO_IMAGE: others} if others else {})
    if split.name != "val":
        raise BadInput(f"{split.root} is a data set with the splits train and val: name it with `root={split.root}`",
                       settings=("data.root",))  # fmt: skip
    file, folder = split.root / "val" / LABELS, split.root / "val" / "images"
    table = read_table(file, ())
    if table.width < 2:
        raise BadInput(f"{file} has no classes: expected lines with a file, its class and its box")
    class_of = dict(zip(table.column(0), table.column(1), strict=True))
    files = list_images(folder, [""], bool(options.follow_links))
    names, others = files.names, list(Names.unpack(files.further["left_out"]))
    if missing := [name for name in names if name not in class_of]:
        raise BadInput(f"{file} does not name {len(missing)} of the images in {folder}, such as {missing[0]}")
    classes, label, _ = indexed([class_of[name] for name in names])
    return ClassColumns(
        source=file,
        folder=folder,
        names=names,
        image_ids=np.arange(1, len(names) + 1),
        classes=classes,
        label_digest=digest_of(classes, label),
        left_out={NO_IMAGE: others} if others else {},
        label=label,
    )


FORMAT = Format(
    name="tiny-imagenet",
    kind="classes",
    layout=f"ROOT/train/SYNSET/images/ and ROOT/val/images/ with ROOT/val/{LABELS}",
    sniff=sniff,
    splits=splits,
    read=read,
)
