"""Data sets with one label file per split: where the file and the images of each split are.

ROOT/train.json, ROOT/val.json, also in ROOT/annotations/        images in ROOT/, ROOT/images/ or ROOT/train/
ROOT/train/any.json beside its images
ROOT/any.json alone: one split, `train`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from backbones.errors import BadInput
from data.formats import Split
from data.formats.coco_json import is_safe
from data.formats.image_files import PEEK, SPLIT_NAMES, ImageFiles, files_in, folders_in
from data.formats.records import Record

LABEL_FOLDERS = ("annotations", "labels", "csv")  # whose parent may have the images
SAMPLE = 50  # names whose images decide which folder is the image folder
MOST = 100  # files of a folder that are inspected; more are one per image


def find_files(root: Path, is_label: Callable[[Path], bool], suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The label file of each split; none if `root` is not a folder.

    Args:
        root: folder of the data set.
        is_label: whether a file with one of the suffixes is a label file.
        suffixes: in lower case.

    Raises BadInput for several files without the name of a split.
    """
    found, others = _sorted_files(root, is_label, suffixes)
    if not found and len(others) > 1:
        listed = ", ".join(str(file.relative_to(root)) for file in others[:5])
        raise BadInput(
            f"{root} has several label files: {listed}. Name one with `train`, and one with `val`",
            settings=("data.train", "data.val"),
        )
    return found or ({"train": others[0]} if others else {})


def any_file(root: Path, is_label: Callable[[Path], bool], suffixes: tuple[str, ...]) -> Path | None:
    """One of the label files in `root`; None if it has none."""
    found, others = _sorted_files(root, is_label, suffixes)
    return next(iter([*found.values(), *others]), None)


def file_of(split: Split, is_label: Callable[[Path], bool], suffixes: tuple[str, ...]) -> Path:
    """The label file of a split; that of the whole data set if the splits are in one file."""
    if split.root.is_file():
        return split.root
    found = find_files(split.root, is_label, suffixes)
    if not found:
        raise BadInput(f"{split.root} has no label file")
    return found.get(split.name) or next(iter(found.values()))


def images_of(file: Path, split: Split, names: Sequence[str], follow_links: bool) -> ImageFiles:
    """The images of the folder in which most of a sample of the names are found."""
    if split.images is not None:
        return ImageFiles(split.images, follow_links)
    sample = names[:: max(1, len(names) // SAMPLE)]
    roots = [file.parent, split.root if split.root.is_dir() else file.parent]
    if file.parent.name.lower() in LABEL_FOLDERS:
        roots.append(file.parent.parent)
    words = dict.fromkeys([*([split.name] if split.name else []), *sorted(_split_words(file))])
    named = [root / tree / word for root in roots for tree in ("images", "data", "") for word in words]
    folders = [*named, *(root / tree for root in roots for tree in ("images", "data")), *roots]
    best, most = None, -1
    for folder in dict.fromkeys(_existing(folder) for folder in folders):
        if folder is None:
            continue
        images = ImageFiles(folder, follow_links)
        count = sum(_finds(images, name) for name in sample)
        if count > most:
            best, most = images, count
        if count == len(sample):
            break
    assert best is not None  # the folder of the file exists
    return best


def name_in(images: ImageFiles, written: str, record: Record) -> str:
    """The image that a record calls `written`, relative to the folder of the images.

    A name that is not found stays as it is, so that the images that are missing are counted later. Raises BadInput if
    it could lead out of the folder.
    """
    if (found := images.find(written)) is not None:
        return found
    name = written.replace("\\", "/")
    if not is_safe(name):
        record.fail(f"has the image {written!r}, which is not in {images.folder}: refused, not read")
    return name


def unnamed(images: ImageFiles, named: set[str], file: Path, alone: bool) -> dict[str, list[str]]:
    """Images that a label file does not name, as `left_out`. `alone`: whether no other file has labels for the folder.

    Images in the folder of a split belong to that split.
    """
    names = [name for name in images.names if name not in named]
    own = alone or images.folder.name.lower() in SPLIT_NAMES
    return {f"{file.name} does not name them": names} if names and own else {}


def _sorted_files(
    root: Path, is_label: Callable[[Path], bool], suffixes: tuple[str, ...]
) -> tuple[dict[str, Path], list[Path]]:
    """The label file of each split, and label files without the name of a split."""
    found: dict[str, Path] = {}
    others = []
    for folder in (root, *folders_in(root)[:PEEK]):
        for file in files_in(folder, suffixes, MOST):
            if is_label(file):
                names = _split_words(file) | ({folder.name.lower()} & SPLIT_NAMES if folder != root else set())
                if len(names) == 1:
                    found.setdefault(names.pop(), file)
                else:
                    others.append(file)
    return found, others


def _split_words(file: Path) -> set[str]:
    return {word for word in re.split(r"[^a-z0-9]+", file.stem.lower()) if word in SPLIT_NAMES}


def _finds(images: ImageFiles, name: str) -> bool:
    try:
        return images.find(name) is not None
    except BadInput:  # several images may be meant; whoever uses the name reports it
        return False


def _existing(folder: Path) -> Path | None:
    """The folder of this name, whatever the case of its last part."""
    if folder.is_dir():
        return folder
    return next((path for path in folders_in(folder.parent) if path.name.lower() == folder.name.lower()), None)
