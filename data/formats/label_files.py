"""Data sets with one label file per image: where the label files and the images of each split are.

ROOT/train/                   images and label files side by side, or in folders such as images/ and labels/
ROOT/labels/train/            and the images in ROOT/images/train/
ROOT/                         without split folders: one split, `train`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from backbones.errors import BadInput
from data.formats import Split
from data.formats.image_files import (
    NO_IMAGE,
    NO_LABELS,
    PEEK,
    SPLIT_NAMES,
    ImageFiles,
    files_in,
    folders_in,
    has_images,
)
from data.images import IMAGE_SUFFIXES

IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img", "data", "pictures", "photos")


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
    folders = folders_in(root)
    found = {
        folder.name.lower(): _within(folder, has_labels)
        for folder in folders
        if folder.name.lower() in SPLIT_NAMES and has_labels(folder)
    }
    for tree in [] if found else folders:
        for labels in folders_in(tree):
            if labels.name.lower() in SPLIT_NAMES and has_labels(labels):
                found.setdefault(labels.name.lower(), LabelFolder(labels, _images(labels, root)))
    return found or ({"train": _within(root, has_labels)} if has_labels(root) else {})


def folder_of(split: Split, is_label: Callable[[Path], bool], suffix: str) -> LabelFolder:
    """The label folder of a split: one of `find_splits`, or all of the split's root."""
    if split.name:
        return find_splits(split.root, is_label, suffix)[split.name]
    above = split.root.absolute().parent
    above = above.parent if split.root.name.lower() in SPLIT_NAMES else above
    return LabelFolder(split.root, split.images or _images(split.root, above))


def label_files(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """Name relative to the folder, without suffix and with slashes, and path of each label file below it, sorted."""
    for file in files_in(folder, (suffix,)):
        yield file.stem, file
    for inner in folders_in(folder):
        if not inner.is_symlink():
            yield from ((f"{inner.name}/{name}", path) for name, path in label_files(inner, suffix))


@dataclass(frozen=True)
class Pairs:
    """Images of a split and their label files.

    Attributes:
        source: the file or folder that messages name.
        images: the images in the folder.
        files: name of an image -> its label file.
        left_out: see `Columns`.
        other_files: label files of the other splits.
    """

    source: Path
    images: ImageFiles
    files: dict[str, Path]
    left_out: dict[str, list[str]]
    other_files: list[Path]


def pairs_of(
    split: Split, is_label: Callable[[Path], bool], suffix: str, written_name: Callable[[Path], str], follow_links: bool
) -> Pairs:
    """Label files and images of equal names.

    Args:
        split: the split.
        is_label, suffix: see `find_splits`.
        written_name: label file -> the name of its image in it, which counts if no image has the name of the file.
        follow_links: whether links to folders may lead out of the folder.

    Raises BadInput if there are no label files, or if two of them belong to one image.
    """
    place = folder_of(split, is_label, suffix)
    images = ImageFiles(place.images, follow_links)
    files: dict[str, Path] = {}
    for stem, file in label_files(place.labels, suffix):
        name = images.of_stem(stem) or images.find(stem)
        if name is None and not is_label(file):
            continue
        if name is None:
            written = written_name(file)
            name = images.find(written) or _absent(stem, written)
        if name in files:
            raise BadInput(f"{files[name]} and {file} both belong to image {name}")
        files[name] = file
    if not files:
        raise BadInput(f"{place.labels} has no label files, {suffix}, of this format")
    left_out = {NO_IMAGE: images.others, NO_LABELS: [name for name in images.names if name not in files]}
    splits = find_splits(split.root, is_label, suffix).items() if split.name else ()
    others = [file for name, other in splits if name != split.name for _, file in label_files(other.labels, suffix)]
    return Pairs(place.labels, images, files, {reason: names for reason, names in left_out.items() if names}, others)


def _absent(stem: str, written: str) -> str:
    """The name of an image that does not exist: that of its label file, with the suffix that is written in it."""
    suffix = PurePath(written.replace("\\", "/")).suffix
    return stem + (suffix if suffix.lower() in IMAGE_SUFFIXES else IMAGE_SUFFIXES[0])


def _has_labels(folder: Path, is_label: Callable[[Path], bool], suffix: str, depth: int = 2) -> bool:
    if any(is_label(file) for file in files_in(folder, (suffix,), PEEK)):
        return True
    below = folders_in(folder)[:PEEK] if depth > 0 else []
    return any(_has_labels(inner, is_label, suffix, depth - 1) for inner in below)


def _within(folder: Path, has_labels: Callable[..., bool]) -> LabelFolder:
    """The label files and images below a folder: in a folder each, or together."""
    inner = folders_in(folder)
    labels, images = [path for path in inner if has_labels(path)], [path for path in inner if has_images(path)]
    images = [path for path in images if path.name.lower() in IMAGE_FOLDERS] or images
    separate = len(labels) == len(images) == 1 and not has_labels(folder, depth=0) and not has_images(folder, 0)
    return LabelFolder(labels[0], images[0]) if separate else LabelFolder(folder, folder)


def _images(labels: Path, root: Path) -> Path:
    """The folder of the images of a label folder: itself, one beside it, or one of its name elsewhere in `root`."""
    siblings = [folder for folder in folders_in(labels.parent) if folder.name.lower() in IMAGE_FOLDERS]
    for folder in (labels, *siblings):
        if has_images(folder):
            return folder
    trees = [tree for tree in folders_in(root) if tree != labels.parent]
    named = [tree for tree in trees if tree.name.lower() in IMAGE_FOLDERS]
    for tree in [root, *named, *(tree for tree in trees if tree not in named)]:
        for folder in folders_in(tree):
            if folder.name.lower() == labels.name.lower() and has_images(folder):
                return folder
    return next((tree for tree in named if has_images(tree)), root)
