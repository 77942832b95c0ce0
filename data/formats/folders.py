"""Classification data: `ROOT/{split}/CLASS/*`, the layout of ImageNet and of torchvision's ImageFolder.

Also a flat folder `ROOT/{split}/*` with a label file `ROOT/{split}_labels.txt`, for ImageNet's validation images. Each
line of the label file is `FILE CLASS`; or `CLASS` alone, in the order of the sorted file names. CLASS is a name, a
WordNet synset such as n01440764, or an index from 0 into the class names, as in Caffe's `val.txt`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.errors import BadInput
from data.batch import Sample
from data.images import read_image
from data.reader import Fraction, ImageReader, Transform, subset_indices

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
BLANK = (224, 224)  # height and width of the black image that replaces an unreadable one, px


@dataclass(frozen=True)
class ClassificationReport:
    """Counts over the selected images."""

    images: int
    classes: int
    empty_classes: tuple[str, ...]  # classes without an image
    images_per_class: tuple[int, int]  # lowest and highest count of a class


class ClassFolders(ImageReader):
    """Images with one class each; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    A sample's `labels` is (1,): the index of its class in `classes`. Its `boxes` is (1, 4) zeros, since batches need as
    many boxes as labels. Images in subfolders of a class folder belong to that class. Hidden files and files of other
    kinds are ignored.

    Attributes:
        classes: names of the class folders, sorted. With a label file: `known` if it has all names of the file, else
            the names in the file, sorted.
        image_ids: (n,) int64, index among all images of the split, independent of `fraction`.
        labels: (n,) int64 indices into `classes`.
        report: a `ClassificationReport`.

    Args:
        root: root of the data set.
        split: such as "train" or "val".
        transform: see `ImageReader`.
        fraction: size of the random subset of each class to use, see `subset_indices`.
        seed: of the subset.
        skip_bad: see `ImageReader`.
        known: class names in the order that numbers in a label file refer to.

    Raises `BadInput` with the folder and the cause; if folders are missing, also with the expected layout.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        transform: Transform | None = None,
        fraction: Fraction = 1.0,
        seed: int = 0,
        skip_bad: int = 0,
        known: Sequence[str] | None = None,
    ) -> None:
        folder = _locate(Path(root), split)
        self.classes, names, labels = _list(folder, known)
        order = labels.argsort(kind="stable")
        by_class = np.split(order, np.unique(labels[order], return_index=True)[1][1:])
        subsets = [own[subset_indices(len(own), fraction, (seed, int(labels[own[0]])))] for own in by_class]
        selected = np.sort(np.concatenate(subsets))
        self.labels = labels[selected]
        label_bytes = "\0".join(self.classes).encode(errors="surrogateescape") + self.labels.tobytes()
        super().__init__(folder, [names[i] for i in selected], selected, transform, skip_bad, label_bytes)
        counts = np.bincount(self.labels, minlength=len(self.classes))
        self.report = ClassificationReport(
            images=len(self),
            classes=len(self.classes),
            empty_classes=tuple(name for name, count in zip(self.classes, counts, strict=True) if not count),
            images_per_class=(int(counts.min()), int(counts.max())),
        )

    def name(self, index: int) -> str:
        """The image file, relative to the split's folder."""
        return self.path(index).relative_to(self.folder).as_posix()

    def read(self, index: int) -> Sample:
        """The image with its class, in original pixels."""
        return self._labelled(index, read_image(self.path(index)))

    def blank(self, index: int) -> Sample:
        """A black image with the label."""
        return self._labelled(index, np.zeros((*BLANK, 3), np.uint8))

    def _labelled(self, index: int, image: np.ndarray) -> Sample:
        return Sample(
            image=image,
            image_id=int(self.image_ids[index]),
            size=(image.shape[0], image.shape[1]),
            scale=(1.0, 1.0),
            boxes=np.zeros((1, 4), np.float32),
            labels=self.labels[index : index + 1],
        )


def _locate(root: Path, split: str) -> Path:
    """The folder of a split. Raises BadInput with the expected layout if it is missing."""
    layout = f"expected {root}/{split}/CLASS/ with the images of each class"
    if not root.is_dir():
        raise BadInput(f"no data set at {root}: there is no such folder; {layout}")
    if os.sep in split or split in ("", ".", ".."):
        raise BadInput(f"split {split!r} is not the name of a folder in {root}: refused")
    if not (root / split).is_dir():
        present = sorted(path.name for path in root.iterdir() if path.is_dir())
        hint = f"; it has {', '.join(present[:8])}{', ...' if len(present) > 8 else ''}" if present else ""
        raise BadInput(f"data set {root} has no folder {split}{hint}; {layout}")
    return root / split


def _list(folder: Path, known: Sequence[str] | None) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """Class names, file names relative to `folder`, and the class index of each file."""
    boundary = folder.resolve()
    entries = sorted(_entries(folder), key=lambda entry: entry.name)
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    label_file = folder.with_name(f"{folder.name}_labels.txt")
    if not classes:
        return _flat(folder, [name for name in _images(folder, "", boundary) if os.sep not in name], label_file, known)
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = _images(folder, name, boundary)
        names += files
        labels += [label] * len(files)
    if not names:
        raise BadInput(f"no class folder in {folder} has an image: expected {', '.join(SUFFIXES)} files")
    return classes, names, np.array(labels, np.int64)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Files and folders in a folder, without hidden ones. Raises BadInput if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise BadInput(f"cannot list {folder}: {error.strerror}") from error


def _images(folder: Path, subfolder: str, boundary: Path) -> list[str]:
    """Sorted names, relative to `folder`, of the images in `subfolder` and the folders below it.

    Raises BadInput for a link that leads out of `boundary` or forms a cycle.
    """
    if os.path.islink(folder / subfolder) and subfolder:
        _check_link(folder / subfolder, boundary)
    names = []
    for entry in _entries(folder / subfolder):
        name = os.path.join(subfolder, entry.name)
        if entry.is_dir():
            names += _images(folder, name, boundary)
        elif entry.name.lower().endswith(SUFFIXES):
            if entry.is_symlink():
                _check_link(Path(entry.path), boundary)
            names.append(name)
    return sorted(names)


def _check_link(path: Path, boundary: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(boundary):
        raise BadInput(f"{path} is a link that leads out of {boundary}: refused")
    if path.parent.resolve().is_relative_to(target):
        raise BadInput(f"{path} is a link to a folder that contains it: refused, since listing it would never end")


def _flat(
    folder: Path, files: list[str], label_file: Path, known: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """The same as `_list`, for images directly in `folder` and a label file beside it."""
    if not label_file.is_file():
        devkit = any((parent / DEVKIT).is_file() for parent in (folder, folder.parent))
        raise BadInput(
            f"{folder} has no class folders: expected {folder}/CLASS/ with the images of each class, or images in "
            f"{folder} and their classes in {label_file}, one line FILE CLASS for each"
            + (f". {DEVKIT} numbers the classes in another order: replace its numbers by synsets" if devkit else "")
        )
    try:
        lines = [line.strip() for line in label_file.read_text().splitlines() if line.strip()]
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
    names = sorted(class_of)
    classes, labels = _indexed([class_of[name] for name in names], label_file, known)
    return classes, names, labels


def _indexed(entries: list[str], label_file: Path, known: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and (n,) int64 index of each label file entry among them."""
    if all(entry.isdecimal() for entry in entries):
        labels = np.array([int(entry) for entry in entries], np.int64)
        if known is None or labels.max() >= len(known):
            raise BadInput(
                f"{label_file} has the number {labels.max()}, "
                + ("but the class names are not known: write names" if known is None else
                   f"but there are {len(known)} classes, counted from 0")
            )  # fmt: skip
        return tuple(known), labels
    classes = tuple(known) if known is not None and set(entries) <= set(known) else tuple(sorted(set(entries)))
    index = {name: i for i, name in enumerate(classes)}
    return classes, np.array([index[entry] for entry in entries], np.int64)
