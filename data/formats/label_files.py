"""Data sets with one label file per image: where the label files and the images of each split are.

ROOT/train/                   images and label files side by side, or in folders such as images/ and labels/
ROOT/labels/train/            and the images in ROOT/images/train/
ROOT/                         without split folders: one split, `train`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.formats import Split
from data.formats.image_files import SPLIT_NAMES, children, has_images, peek

IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img", "data", "pictures", "photos")
TRIES = 20  # label files of a folder that are inspected to recognise the layout


@dataclass(frozen=True)
class LabelFolder:
    """The label files of a split and its images, both with the folders below.

    Attributes:
        labels: folder of the label files.
        images: folder of the images.
    """

    labels: Path
    images: Path


def find_splits(root: Path, is_label: Callable[[Path], bool], suffix: str) -> dict[str, LabelFolder]:
    """The label folder of each split; none if `root` has no label files.

    Args:
        root: folder of the data set.
        is_label: whether a file with the suffix is a label file.
        suffix: of label files, in lower case.
    """
    has_labels = partial(_has_labels, is_label=is_label, suffix=suffix)
    folders = _folders(root)
    found = {
        folder.name.lower(): _within(folder, has_labels)
        for folder in folders
        if folder.name.lower() in SPLIT_NAMES and has_labels(folder)
    }
    for tree in [] if found else folders:
        for labels in _folders(tree):
            if labels.name.lower() in SPLIT_NAMES and has_labels(labels):
                found.setdefault(labels.name.lower(), LabelFolder(labels, _images(labels, root)))
    return found or ({"train": _within(root, has_labels)} if has_labels(root) else {})


def folder_of(split: Split, is_label: Callable[[Path], bool], suffix: str) -> LabelFolder:
    """The label folder of a split: one of `find_splits`, or all of the split's root."""
    if split.name:
        return find_splits(split.root, is_label, suffix)[split.name]
    above = split.root.absolute().parent.parent
    return LabelFolder(split.root, split.images or _images(split.root, above))


def label_files(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """Name relative to the folder, without suffix and with slashes, and path of each label file below it, sorted."""
    for entry in children(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from ((f"{entry.name}/{name}", path) for name, path in label_files(Path(entry.path), suffix))
        elif entry.name.lower().endswith(suffix) and entry.is_file():
            yield os.path.splitext(entry.name)[0], Path(entry.path)


def _has_labels(folder: Path, is_label: Callable[[Path], bool], suffix: str, depth: int = 2) -> bool:
    entries = peek(folder)
    files = [Path(entry.path) for entry in entries if entry.name.lower().endswith(suffix) and entry.is_file()]
    if any(is_label(file) for file in files[:TRIES]):
        return True
    below = [Path(entry.path) for entry in entries if entry.is_dir()]
    return depth > 0 and any(_has_labels(folder, is_label, suffix, depth - 1) for folder in below[:TRIES])


def _within(folder: Path, has_labels: Callable[..., bool]) -> LabelFolder:
    """The label files and images below a folder: in a folder each, or together."""
    inner = _folders(folder)
    labels, images = [path for path in inner if has_labels(path)], [path for path in inner if has_images(path)]
    images = [path for path in images if path.name.lower() in IMAGE_FOLDERS] or images
    separate = len(labels) == len(images) == 1 and not has_labels(folder, depth=0) and not has_images(folder, 0)
    return LabelFolder(labels[0], images[0]) if separate else LabelFolder(folder, folder)


def _images(labels: Path, root: Path) -> Path:
    """The folder of the images of a split's label folder: itself, one beside it, or one of its name elsewhere in `root`."""
    siblings = [folder for folder in _folders(labels.parent) if folder.name.lower() in IMAGE_FOLDERS]
    for folder in (labels, *siblings):
        if has_images(folder):
            return folder
    trees = [tree for tree in _folders(root) if tree != labels.parent]
    named = [tree for tree in trees if tree.name.lower() in IMAGE_FOLDERS]
    for tree in [root, *named, *(tree for tree in trees if tree not in named)]:
        for folder in _folders(tree):
            if folder.name.lower() == labels.name.lower() and has_images(folder):
                return folder
    return next((tree for tree in named if has_images(tree)), root)


def _folders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in children(folder) if entry.is_dir()]
