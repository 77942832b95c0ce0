"""Classification data: `ROOT/{split}/CLASS/*`, the layout of ImageNet and of torchvision's ImageFolder.

Without split folders, `ROOT/CLASS/*` is the training split. Also a flat folder `ROOT/{split}/*` with a label file
`ROOT/{split}_labels.txt`, for ImageNet's validation images. Each line of the label file is `FILE CLASS`; or `CLASS`
alone, in the order of the sorted file names. CLASS is a name, a WordNet synset such as n01440764, or an index from 0
into the class names, as in Caffe's `val.txt`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.columns import ClassColumns, digest_of
from data.formats import ALIASES, Format, Sniffed, Split
from data.images import IMAGE_SUFFIXES
from data.options import ClassOptions

DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
SPLIT_NAMES = {name for names in ALIASES for name in names}
NO_IMAGE = "their suffix is not that of an image"
ENOUGH = 50  # entries of a folder that are inspected to recognise the layout


def sniff(root: Path) -> Sniffed | None:
    """Folders of images in a folder."""
    if not root.is_dir():
        return None
    for name in splits(root):
        folder = _folder(root, name)
        if _has_classes(folder):
            return Sniffed(0.6, f"{folder} has one folder of images per class")
        if (root / f"{name}_labels.txt").is_file():
            return Sniffed(0.6, f"{name}_labels.txt has the classes of the images in {folder}")
    return Sniffed(0.5, f"{root} has one folder of images per class") if _has_classes(root) else None


def splits(root: Path) -> list[str]:
    """Folders with class folders or a label file; `train` if the class folders are directly in `root`."""
    folders = [Path(entry.path) for entry in _entries(root) if entry.is_dir()] if root.is_dir() else []
    found = [folder.name for folder in sorted(folders) if _is_split(folder)]
    return found or (["train"] if _has_classes(root) else [])


def read(split: Split, options: ClassOptions) -> ClassColumns:
    """Images in class folders, or in a flat folder with a label file. Images in subfolders belong to the class too."""
    folder = _folder(split.root, split.name)
    boundary = folder.resolve()
    follow = bool(options.follow_links)
    left_out: dict[str, list[str]] = {}
    entries = sorted(_entries(folder), key=lambda entry: entry.name)
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    label_file = folder.with_name(f"{folder.name}_labels.txt")
    if classes:
        _refuse_nested(folder, classes)
        files = [_images(folder, name, boundary, follow, left_out) for name in classes]
        names = [name for own in files for name in own]
        labels = np.repeat(np.arange(len(classes)), [len(own) for own in files])
        numbered = False
        if not names:
            raise BadInput(f"no class folder in {folder} has an image: expected {', '.join(IMAGE_SUFFIXES)} files")
    else:
        found = [name for name in _images(folder, "", boundary, follow, left_out) if os.sep not in name]
        class_of = _label_file(folder, found, label_file)
        names = sorted(class_of)
        numbered = all(class_of[name].isdecimal() for name in names)
        classes = tuple(sorted(set(class_of.values()), key=(lambda name: (int(name), name)) if numbered else None))
        index = {name: i for i, name in enumerate(classes)}
        labels = np.array([index[class_of[name]] for name in names], np.int64)
    return ClassColumns(
        source=label_file if numbered else folder,
        folder=folder,
        names=names,
        image_ids=np.arange(len(names)),
        classes=classes,
        label_digest=digest_of(classes, labels),
        left_out=left_out,
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


def _folder(root: Path, split: str) -> Path:
    return root / split if split and (root / split).is_dir() else root


def _is_split(folder: Path) -> bool:
    if folder.with_name(f"{folder.name}_labels.txt").is_file() or _has_classes(folder):
        return True
    return folder.name in SPLIT_NAMES and any(entry.is_dir() or _is_image(entry) for entry in _first(_entries(folder)))


def _first(entries: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    return [entry for _, entry in zip(range(ENOUGH), entries, strict=False)]


def _has_classes(folder: Path) -> bool:
    """Whether some of the folders in this folder contain images, directly or one level below."""
    children = [Path(entry.path) for entry in _first(_entries(folder)) if entry.is_dir()]
    return any(_is_image(entry) for child in children[:8] for entry in _first(_entries(child)))


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file()


def _refuse_nested(folder: Path, classes: tuple[str, ...]) -> None:
    """Raise BadInput if the only folder is not a class but contains the class folders."""
    if len(classes) == 1 and _has_classes(folder / classes[0]):
        inner = folder / classes[0]
        others = [path / classes[0] for path in sorted(folder.parent.iterdir()) if (path / classes[0]).is_dir()]
        rest = [str(path) for path in others if path != inner]
        raise BadInput(
            f"{folder} has a single folder, {classes[0]}, and the class folders are in it: name the inner folders, as "
            f"in `train={inner}`" + (f" and `val={rest[0]}`" if rest else ""),
            settings=("data.train", "data.val"),
        )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Files and folders in a folder, without hidden ones. Raises BadInput if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise BadInput(f"cannot list {folder}: {error.strerror}") from error


def _images(folder: Path, subfolder: str, boundary: Path, follow: bool, left_out: dict[str, list[str]]) -> list[str]:
    """Sorted names, relative to `folder`, of the images in `subfolder` and the folders below it.

    Other files are added to `left_out`. Raises BadInput for a link that forms a cycle or, unless `follow`, leads out of
    `boundary`.
    """
    if os.path.islink(folder / subfolder) and subfolder:
        _check_link(folder / subfolder, boundary, follow)
    names = []
    for entry in _entries(folder / subfolder):
        name = os.path.join(subfolder, entry.name)
        if entry.is_dir():
            names += _images(folder, name, boundary, follow, left_out)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            if entry.is_symlink():
                _check_link(Path(entry.path), boundary, follow)
            names.append(name)
        else:
            left_out.setdefault(NO_IMAGE, []).append(name)
    return sorted(names)


def _check_link(path: Path, boundary: Path, follow: bool) -> None:
    target = path.resolve()
    if not follow and not target.is_relative_to(boundary):
        raise BadInput(
            f"{path} is a link that leads out of {boundary}: refused. To read it, pass `follow_links=True`",
            settings=("data.follow_links",),
        )
    if path.parent.resolve().is_relative_to(target):
        raise BadInput(f"{path} is a link to a folder that contains it: refused, since listing it would never end")


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
