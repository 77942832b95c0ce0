"""Classification data: `ROOT/{split}/CLASS/*`, the layout of ImageNet and of torchvision's ImageFolder.

Without split folders, `ROOT/CLASS/*` is the training split. Also a flat folder `ROOT/{split}/*` with a label file
`ROOT/{split}_labels.txt`, for ImageNet's validation images. Each line of the label file is `FILE CLASS`; or `CLASS`
alone, in the order of the sorted file names. CLASS is a name, a WordNet synset such as n01440764, or an index from 0
into the class names, as in Caffe's `val.txt`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import ClassColumns, digest_of
from data.formats import ALIASES, Format, Sniffed, Split
from data.formats.listing import (
    NO_IMAGE,
    entries,
    folders,
    has_class_folders,
    has_images,
    is_image_name,
    list_images,
)
from data.images import IMAGE_SUFFIXES
from data.names import Names
from data.options import ClassOptions

DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
SPLIT_NAMES = {name for names in ALIASES for name in names}
STRAY = "they are in no class folder"
DEPTH = 4  # levels of folders in which a data set inside of `root` is searched


def sniff(root: Path) -> Sniffed | None:
    """Folders of images in a folder."""
    if not root.is_dir():
        return None
    for folder in [*_split_folders(root), root]:
        if _label_file_of(folder).is_file() and has_images(folder):
            return Sniffed(0.6, f"{_label_file_of(folder).name} has the classes of the images in {folder}")
        if folder != root and _has_classes(folder):
            return Sniffed(0.6, f"{folder} has one folder of images per class")
    if flat := _split_folders(root):
        return Sniffed(0.3, f"{flat[0]} has images, without their classes")
    if has_class_folders(root):
        several = sum(map(has_images, _with_content(root))) > 1  # a single folder is rather the images of a table
        return Sniffed(0.5 if several else 0.15, f"{root} has one folder of images per class")
    inner = _inner(root)
    return Sniffed(0.2, f"{inner[0]} has one folder of images per class") if inner else None


def splits(root: Path) -> list[str]:
    """Folders with class folders or a label file; `train` if the class folders are directly in `root`.

    Raises BadInput, naming the folder to pass, if the data set is in a folder inside of `root`.
    """
    if not root.is_dir():
        return []
    if found := _split_folders(root):
        others = [folder for folder in folders(root) if folder not in found and _has_classes(folder)]
        return sorted(folder.name for folder in found + others)
    if inner := _inner(root):
        raise _nested(root, inner)
    return ["train"] if _has_classes(root) else []


def read(split: Split, options: ClassOptions) -> ClassColumns:
    """Images in class folders, or in a flat folder with a label file. Images in subfolders belong to the class too.

    Raises BadInput if the folder has no images, or if its folders are not classes.
    """
    folder = _folder(split.root, split.name)
    label_file = _label_file_of(folder)
    if split.images is not None:
        raise BadInput(
            f"{folder} has the images of its classes: a second folder {split.images} can be named for label files only"
        )
    if not split.name and (own_splits := _split_folders(folder)):
        raise BadInput(
            f"{folder} is a data set with the splits {', '.join(path.name for path in own_splits)}: name one of them, "
            f"as in `train={own_splits[0]}`, or the data set with `root={folder}`",
            settings=("data.train", "data.root"),
        )
    follow = bool(options.follow_links)
    left_out: dict[str, list[str]] = {}
    class_folders = [path.name for path in folders(folder)]
    is_flat = (label_file.is_file() and has_images(folder)) or not class_folders
    files = list_images(folder, [""] if is_flat else class_folders, follow)
    if others := list(Names.unpack(files.further["left_out"])):
        left_out[NO_IMAGE] = others
    names: Sequence[str] = files.names
    sizes: np.ndarray | None = files.sizes
    if is_flat:
        class_of = _label_file(folder, [name for name in names if os.sep not in name], label_file)
        names, sizes = sorted(class_of), None
        classes, labels, numbered = indexed([class_of[name] for name in names])
    else:
        counts = files.further["counts"]
        _refuse_nested(folder, files.names, counts)
        if stray := sorted(entry.name for entry in entries(folder) if is_image_name(entry.name)):
            left_out[STRAY] = stray
        labels = np.repeat(np.arange(len(counts)), counts)
        classes, numbered = tuple(class_folders), False
        if not names:
            raise BadInput(f"no class folder in {folder} has an image: expected {', '.join(IMAGE_SUFFIXES)} files")
    return ClassColumns(
        source=label_file if numbered else folder,
        folder=folder,
        names=names,
        image_ids=np.arange(len(names)),
        classes=classes,
        label_digest=digest_of(classes, labels),
        left_out=left_out,
        bytes_of_files=sizes,
        label=labels,
        numbered=numbered,
    )


FORMAT = Format(
    name="folders",
    kind="classes",
    layout="ROOT/train/CLASS/ and ROOT/val/CLASS/ with the images of each class",
    sniff=sniff,
    splits=splits,
    read=read,
)


def indexed(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray, bool]:
    """Classes, (n,) int64 index of the class of each image, and whether the classes are whole numbers.

    Classes are sorted: numbers by value, names by letters.
    """
    numbered = all(name.isdecimal() for name in names)
    classes = tuple(sorted(set(names), key=(lambda name: (int(name), name)) if numbered else None))
    index = {name: i for i, name in enumerate(classes)}
    return classes, np.array([index[name] for name in names], np.int64), numbered


def _folder(root: Path, split: str) -> Path:
    return root / split if split and (root / split).is_dir() else root


def _label_file_of(folder: Path) -> Path:
    return folder.parent / f"{folder.name}_labels.txt"


def _split_folders(root: Path) -> list[Path]:
    """Folders that have a usual name of a split, or a label file."""
    return [
        folder
        for folder in folders(root)
        if _label_file_of(folder).is_file()
        or (folder.name.lower() in SPLIT_NAMES and (has_images(folder) or folders(folder)))
    ]


def _has_classes(folder: Path) -> bool:
    """Whether the folders in this folder contain images, directly or in folders of their own."""
    return has_class_folders(folder) or any(has_class_folders(child) for child in folders(folder)[:2])


def _inner(root: Path) -> list[Path]:
    """Folders below `root` that are data sets, or splits of unusual names, while `root` has no class folders.

    Class folders may have folders of their own. They are not data sets: each has other folders.
    """
    if has_class_folders(root) or _split_folders(root):
        return []
    children = _with_content(root)
    for _ in range(DEPTH):
        if found := [child for child in children if any(_has_classes(split) for split in _split_folders(child))]:
            return found
        if len(children) != 1:
            break
        if has_class_folders(children[0]):
            return children
        children = _with_content(children[0])
    names = [{path.name for path in folders(child) if has_images(path)} for child in children]
    return children if len(children) > 1 and len(names[0]) > 1 and all(own == names[0] for own in names) else []


def _with_content(folder: Path) -> list[Path]:
    """The folders in a folder that have folders or images."""
    return [child for child in folders(folder) if has_images(child) or folders(child)]


def _nested(root: Path, inner: list[Path]) -> BadInput:
    named = ", ".join(str(path) for path in inner[:3])
    if len(inner) > 1 and not any(_split_folders(path) for path in inner):
        return BadInput(
            f"{named} have the same class folders: if they are splits of one data set, name them, as in "
            f"`train={inner[0]}` and `val={inner[1]}`",
            settings=("data.train", "data.val"),
        )
    which = f"{named} is" if len(inner) == 1 else f"one of {named} is"
    return BadInput(
        f"{root} has no class folders. Probably {which} the data set: pass `root={inner[0]}`", settings=("data.root",)
    )


def _refuse_nested(folder: Path, files: Names, counts: np.ndarray) -> None:
    """Raise BadInput if the only folder with images is not a class but contains the class folders."""
    if np.count_nonzero(counts) == 1 and all(name.count(os.sep) > 1 for name in files):
        name = files[0].split(os.sep)[0]
        inner = folder / name
        others = [path / name for path in folders(folder.parent) if path != folder and (path / name).is_dir()]
        raise BadInput(
            f"{folder} has images only in the folders of {name}, so {name} is not a class. Name the folder that has "
            f"the class folders: `train={inner}`" + (f" and `val={others[-1]}`" if others else ""),
            settings=("data.train", "data.val"),
        )


def _label_file(folder: Path, files: list[str], label_file: Path) -> dict[str, str]:
    """The class of each image in a flat folder. Raises BadInput for a label file that does not fit the images."""
    if not label_file.is_file():
        devkit = any((parent / DEVKIT).is_file() for parent in (folder, folder.parent))
        raise BadInput(
            f"{folder} has no class folders: expected {folder}/CLASS/ with the images of each class, or images in "
            f"{folder} and their classes in {label_file}, one line FILE CLASS for each"
            + (f". {DEVKIT} numbers the classes in another order: replace its numbers by synsets" if devkit else "")
        )
    try:
        lines = [line.strip() for line in label_file.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {label_file}: {error}") from error
    present = set(files)
    pairs = [line.split("\t", 1) if "\t" in line else line.split(maxsplit=1) for line in lines]
    if lines and all(len(pair) == 2 and pair[0] in present for pair in pairs):
        class_of = {pair[0]: pair[1].strip() for pair in pairs}
    elif len(lines) == len(files):
        class_of = dict(zip(sorted(files), lines, strict=True))
    else:
        unmatched = next((line for line, pair in zip(lines, pairs, strict=True) if pair[0] not in present), None)
        raise BadInput(
            f"{label_file} has {len(lines)} lines for {len(files)} images in {folder}"
            + (f", and the line {unmatched!r} starts with none of their names" if unmatched else "")
        )
    if missing := sorted(present - class_of.keys()):
        raise BadInput(f"{label_file} does not name {len(missing)} of the images in {folder}, such as {missing[0]}")
    return class_of
