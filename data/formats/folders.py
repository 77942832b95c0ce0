"""Classification data: `ROOT/{split}/CLASS/*`, the layout of ImageNet and of torchvision's ImageFolder.

Also a flat `ROOT/{split}/*` whose classes are told by `ROOT/{split}_labels.txt`, as ImageNet's validation images come.
Each of its lines is `FILE CLASS`; or `CLASS` alone, in the order of the sorted file names. CLASS is a name, a WordNet
synset such as n01440764, or a number from 0 in the order of the class names, as in the `val.txt` that came with Caffe.
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
from data.reader import Fraction, ImageReader, Transform, share

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"
BLANK = (224, 224)  # height and width of the stand-in for an unreadable image, px


@dataclass(frozen=True)
class ClassificationReport:
    """What was read, over the selected images."""

    images: int
    classes: int
    empty_classes: tuple[str, ...]  # class folders without an image
    images_per_class: tuple[int, int]  # least and most, over all classes


class ClassFolders(ImageReader):
    """Images with one class each; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    A sample's `labels` is (1,): the index of its class in `classes`; `boxes` is (1, 4) zeros, for the batches' sake.

    classes: names of the class folders, sorted; of a label file, the names in it, or `known` where that has them all.
    image_ids: (n,) int64, the position among all images of the split, whatever `fraction`.
    labels: (n,) int64 indices into `classes`.
    report: a `ClassificationReport`.

    `fraction` picks that share of each class, at least one image, by `seed` alone. `known` are the class names that
    numbers in a label file count. Folders below a class belong to it; files of other kinds and hidden ones are no
    images. See `ImageReader` for the rest.

    Raises `BadInput` naming folder, cause, and the layout where that is what is wrong.
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
        members = np.split(order, np.unique(labels[order], return_index=True)[1][1:])
        parts = [own[share(len(own), fraction, (seed, int(labels[own[0]])))] for own in members]
        chosen = np.sort(np.concatenate(parts))
        self.labels = labels[chosen]
        told = "\0".join(self.classes).encode(errors="surrogateescape") + self.labels.tobytes()
        super().__init__(folder, [names[i] for i in chosen], chosen, transform, skip_bad, told)
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
        """Black pixels with the class."""
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
    """The folder of a split."""
    layout = f"expected {root}/{split}/CLASS/ with the images of each class"
    if not root.is_dir():
        raise BadInput(f"no data set at {root}: there is no such folder; {layout}")
    if os.sep in split or split in ("", ".", ".."):
        raise BadInput(f"split {split!r} is not the name of a folder in {root}: refused, not read")
    if not (root / split).is_dir():
        present = sorted(path.name for path in root.iterdir() if path.is_dir())
        found = f"; it has {', '.join(present[:8])}{', ...' if len(present) > 8 else ''}" if present else ""
        raise BadInput(f"data set {root} has no folder {split}{found}; {layout}")
    return root / split


def _list(folder: Path, known: Sequence[str] | None) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """Class names, file names below `folder`, and the index of each one's class."""
    inside = folder.resolve()
    entries = sorted(_entries(folder), key=lambda entry: entry.name)
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    label_file = folder.with_name(f"{folder.name}_labels.txt")
    if not classes:
        return _flat(folder, [name for name in _images(folder, "", inside) if os.sep not in name], label_file, known)
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(folder, name, inside)
        names += found
        labels += [label] * len(found)
    if not names:
        raise BadInput(f"no class folder in {folder} has an image: {', '.join(SUFFIXES)} files are looked for")
    return classes, names, np.array(labels, np.int64)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, but for hidden files. Raises BadInput where it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise BadInput(f"cannot list {folder}: {error.strerror}") from error


def _images(folder: Path, below: str, inside: Path) -> list[str]:
    """Names relative to `folder` of the images in its subfolder `below` and deeper, sorted.

    Raises BadInput for a link that leads out of `inside`, or around in a circle.
    """
    if os.path.islink(folder / below) and below:
        _check_link(folder / below, inside)
    found = []
    for entry in _entries(folder / below):
        name = os.path.join(below, entry.name)
        if entry.is_dir():
            found += _images(folder, name, inside)
        elif entry.name.lower().endswith(SUFFIXES):
            if entry.is_symlink():
                _check_link(Path(entry.path), inside)
            found.append(name)
    return sorted(found)


def _check_link(path: Path, inside: Path) -> None:
    target = path.resolve()
    if not target.is_relative_to(inside):
        raise BadInput(f"{path} is a link that leads out of {inside}: refused, not read")
    if path.parent.resolve().is_relative_to(target):
        raise BadInput(f"{path} is a link to a folder that it lies in: its images would be listed without end")


def _flat(
    folder: Path, files: list[str], label_file: Path, known: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """As `_list`, for images directly in `folder` and a label file beside it."""
    if not label_file.is_file():
        devkit = any((place / DEVKIT).is_file() for place in (folder, folder.parent))
        raise BadInput(
            f"{folder} has no class folders: expected {folder}/CLASS/ with the images of each class, or images in "
            f"{folder} and their classes in {label_file}, one line FILE CLASS for each"
            + (f". {DEVKIT} counts classes in an order of its own: replace its numbers by synsets" if devkit else "")
        )
    try:
        lines = [line.strip() for line in label_file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {label_file}: {error}") from error
    present = set(files)
    pairs = [line.split("\t", 1) if "\t" in line else line.split(maxsplit=1) for line in lines]
    if lines and all(len(pair) == 2 and pair[0] in present for pair in pairs):
        told = {pair[0]: pair[1].strip() for pair in pairs}
    elif len(lines) == len(files):
        told = dict(zip(sorted(files), lines, strict=True))
    else:
        stray = next((line for line, pair in zip(lines, pairs, strict=True) if pair[0] not in present), None)
        raise BadInput(
            f"{label_file} has {len(lines)} lines for {len(files)} images in {folder}"
            + (f", and {stray!r} begins with none of them" if stray else "")
        )
    if missing := sorted(present - told.keys()):
        raise BadInput(f"{label_file} does not name {len(missing)} of the images in {folder}, such as {missing[0]}")
    names = sorted(told)
    classes, labels = _numbered([told[name] for name in names], label_file, known)
    return classes, names, labels


def _numbered(told: list[str], label_file: Path, known: Sequence[str] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and the index of each label among them."""
    if all(label.isdecimal() for label in told):
        labels = np.array([int(label) for label in told], np.int64)
        if known is None or labels.max() >= len(known):
            raise BadInput(
                f"{label_file} has the number {labels.max()}, "
                + ("and nothing says which class that is: write names" if known is None else
                   f"but there are {len(known)} classes, counted from 0")
            )  # fmt: skip
        return tuple(known), labels
    classes = tuple(known) if known is not None and set(told) <= set(known) else tuple(sorted(set(told)))
    index = {name: i for i, name in enumerate(classes)}
    return classes, np.array([index[label] for label in told], np.int64)
