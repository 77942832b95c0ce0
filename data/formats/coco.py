"""COCO's instances files, in COCO's own folders and as other tools export them.

ROOT/annotations/instances_{train,val}[2017].json with images in ROOT/{train,val}[2017]/ or ROOT/images/[{train,val}/];
Roboflow: ROOT/{train,valid,test}/_annotations.coco.json beside the images; ROOT/[annotations/]{train,val}.json; or a
single file with its image folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from backbones.errors import BadInput
from data.columns import BoxColumns
from data.formats import ALIASES, Format, Sniffed, Split
from data.formats.coco_json import parse
from data.options import BoxOptions

ROBOFLOW = "_annotations.coco.json"
# Keys that occur early in a COCO file. Files of other tools do not have them at the top.
_HEAD = re.compile(rb'^(\xef\xbb\xbf)?\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:')
_SPLIT_NAMES = {name for names in ALIASES for name in names} | {"default", "minival"}
_SAMPLE = 8  # images whose existence decides which folder is the image folder


def sniff(root: Path) -> Sniffed | None:
    """COCO's file names, or JSON files that start as COCO's do."""
    if root.is_file():
        return Sniffed(0.9, "it is a COCO JSON file") if _is_coco(root) else None
    files = annotation_files(root)
    if not files:
        return None
    name, file = next(iter(files.items()))
    return Sniffed(0.9, f"{file.relative_to(root)} is the COCO file of {name}")


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
    """The annotation file of each split."""
    if not root.is_dir():
        return {}
    named = {
        path.stem.removeprefix("instances_"): path for path in sorted((root / "annotations").glob("instances_*.json"))
    }
    if named:
        return named
    exported = {path.parent.name: path for path in sorted(root.glob(f"*/{ROBOFLOW}"))}
    if exported:
        return exported
    found = {}
    for path in [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]:
        words = [word for word in re.split(r"[^a-z0-9]+", path.stem.lower()) if word in _SPLIT_NAMES]
        if len(words) == 1 and words[0] not in found and _is_coco(path):
            found[words[0]] = path
    return found


def _is_coco(file: Path) -> bool:
    if file.suffix.lower() != ".json" or not file.is_file():
        return False
    with file.open("rb") as content:
        return _HEAD.match(content.read(256)) is not None


def image_folder(file: Path, names: Sequence[str], split: Split) -> Path:
    """The folder of the images that a file lists. Raises BadInput with the folders that were searched."""
    root = split.root
    if split.images is not None:
        candidates = [split.images]
    elif not split.name:
        candidates = [file.parent, file.parent / "images", file.parent.parent, file.parent.parent / "images"]
    elif file.name == ROBOFLOW:
        candidates = [file.parent]
    else:
        folders = dict.fromkeys([split.name, split.name.removesuffix("2017"), f"{split.name}2017"])
        candidates = [root / name for name in folders] + [root / "images" / name for name in folders]
        candidates += [root / "images", root]
    existing = [folder for folder in candidates if folder.is_dir()]
    sample = names[:: max(1, len(names) // _SAMPLE)]
    found = [sum((folder / name).is_file() for name in sample) for folder in existing]
    if not existing or (not max(found) and split.name and existing[0] in (root, root / "images")):
        raise BadInput(
            f"data set {root} has no folder {candidates[0]} with the images of {file}; "
            f"searched: {', '.join(str(folder) for folder in candidates)}"
        )
    return existing[found.index(max(found))]
