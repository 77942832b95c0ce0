"""COCO's instances files, in COCO's own folders and as other tools export them.

ROOT/annotations/instances_{train,val}[2017].json    images in ROOT/{train,val}[2017]/, ROOT/images/[{train,val}/]
ROOT/{train,valid,test}/_annotations.coco.json       beside the images: Roboflow
ROOT/{train,val}/labels.json                         images in ROOT/{train,val}/data/: FiftyOne
ROOT/[annotations/]{train,val}.json                  any name with that of a split in it
ROOT/[annotations/]NAME.json alone                   one split, `train`: CVAT's instances_default.json and Label
Studio's result.json; images in ROOT/images/ or ROOT/data/
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats import Format, Sniffed, Split
from data.formats.coco_json import parse
from data.formats.image_files import files_in, folders_in
from data.formats.split_files import any_file, find_files
from data.options import BoxOptions

# Keys that occur early in a COCO file. Files of other tools do not have them at the top.
_HEAD = re.compile(rb'^(\xef\xbb\xbf)?\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:')
_OTHER_TASKS = ("panoptic", "captions", "image_info")  # COCO's files without boxes
_SAMPLE = 8  # images whose existence decides which folder is the image folder


def sniff(root: Path) -> Sniffed | None:
    """COCO's file names, or JSON files that start as COCO's do."""
    if root.is_file():
        return Sniffed(0.9, "it is a COCO JSON file") if _is_coco(root) else None
    file = next(iter(_instances(root).values()), None) or any_file(root, _is_coco, (".json",))
    return Sniffed(0.9, f"{file.relative_to(root)} is a COCO file") if file else None


def splits(root: Path) -> list[str]:
    """Names of the splits that have an annotation file."""
    return list(annotation_files(root)) if root.is_dir() else []


def read(split: Split, options: BoxOptions) -> BoxColumns:
    """Images and boxes of one annotation file."""
    file = annotation_files(split.root)[split.name] if split.name else split.root
    if file.is_dir():
        raise BadInput(f"{file} is a folder: name its annotation file, as in FILE:IMAGES")
    columns = parse(file, options.boxes or "xywh")
    return replace(columns, folder=image_folder(file, columns.names, split))


FORMAT = Format(
    name="coco",
    kind="boxes",
    layout="""
        ROOT/annotations/instances_train.json (or train2017) with images in ROOT/train/;
        or ROOT/train/_annotations.coco.json beside its images""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def annotation_files(root: Path) -> dict[str, Path]:
    """The annotation file of each split. A single file without the name of a split is `train`.

    Raises BadInput for several files without the name of a split.
    """
    found = _instances(root) or find_files(root, _is_coco, (".json",))
    return {"train": found["default"]} if list(found) == ["default"] else found


def _instances(root: Path) -> dict[str, Path]:
    own = files_in(root / "annotations", (".json",))
    return {path.stem.removeprefix("instances_").lower(): path for path in own if path.stem.startswith("instances_")}


def _is_coco(file: Path) -> bool:
    if file.suffix.lower() != ".json" or not file.is_file() or file.stem.startswith(_OTHER_TASKS):
        return False
    with file.open("rb") as content:
        return _HEAD.match(content.read(256)) is not None


def image_folder(file: Path, image_names: Sequence[str], split: Split) -> Path:
    """The folder of the images that a file lists. Raises BadInput with the folders that were searched."""
    root = split.root
    words = dict.fromkeys([split.name, *re.split(r"[^a-z0-9]+", file.stem.lower())])
    names = dict.fromkeys(name for word in words for name in (word, word.removesuffix("2017"), f"{word}2017") if word)
    # A single annotation file may be in a folder beside those of the images.
    roots = [root] if split.name else [file.parent, file.parent.parent]
    trees = [tree for folder in roots for tree in (folder, folder / "images", folder / "data")]
    named = [split.images] if split.images else [_existing(tree / name) for tree in trees for name in names]
    others = [] if split.images else [file.parent, file.parent / "data", file.parent / "images", *trees]
    existing = [folder for folder in (*named, *others) if folder.is_dir()]
    sample = image_names[:: max(1, len(image_names) // _SAMPLE)]
    found = [sum((folder / name).is_file() for name in sample) for folder in existing]
    if not max(found, default=0) and (not existing or existing[0] in others):
        searched = ", ".join(str(folder) for folder in dict.fromkeys([*named[: len(names)], *others]))
        raise BadInput(
            f"data set {root} has no folder {named[0]} with the images of {file}; searched: {searched}. If they are "
            "elsewhere, name both, as in `train=FILE:IMAGES` and `val=FILE:IMAGES`",
            settings=("data.train", "data.val"),
        )
    return existing[found.index(max(found))]


def _existing(folder: Path) -> Path:
    """The folder, or one whose name differs in upper and lower case only."""
    if folder.is_dir():
        return folder
    return next((path for path in folders_in(folder.parent) if path.name.lower() == folder.name.lower()), folder)
