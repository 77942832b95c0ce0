"""The images of a split in YOLO's layout, and where the label file of each one is.

The images are those of folders or lists in a configuration (see `yolo_config`), or of a folder (see `label_files`). The
label file of images/train/a.jpg is labels/train/a.txt, or a.txt beside the image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from backbones.errors import BadInput
from data.formats.image_files import NO_IMAGE, PEEK, ImageFiles, files_in, folders_in, has_images, parts_of
from data.formats.label_files import LabelFolder, label_files
from data.formats.records import Record, read_text, start_of
from data.formats.yolo_config import Config
from data.images import IMAGE_SUFFIXES

IMAGE_FOLDERS = ("images", "jpegimages")  # replaced by "labels" in the path of a label file
NO_IMAGE_FOR_LABELS = "they have no image"


@dataclass
class LabelledImages:
    """Images of a split and their label files.

    Attributes:
        source: what messages name.
        folder: folder of all images.
        labels: name relative to the folder -> label file, which may not exist.
        left_out: see `Columns`.
    """

    source: Path
    folder: Path
    labels: dict[str, Path]
    left_out: dict[str, list[str]] = field(default_factory=dict)


def listed_images(config: Config, places: Sequence[Path], follow: bool) -> LabelledImages:
    """The images in folders and in text files with one image per line."""
    pairs: dict[Path, Path] = {}  # image in the real folder -> label file
    left_out: dict[str, list[str]] = {}
    label_folders = _LabelFolders(config, follow)
    for place in places:
        real = config.resolved(place, follow)
        if real is not None and real.is_dir():
            files = ImageFiles(real, follow)
            if files.others:
                left_out.setdefault(NO_IMAGE, []).extend(files.others)
            paths: Iterable[tuple[Path, Path]] = ((place / name, real / name) for name in files.names)
        elif place.suffix.lower() == ".txt":
            paths = _lines_of_list(config, place, follow)
        else:
            raise BadInput(f"{config.file}: {place} is neither a folder of images nor a .txt file that lists them")
        for path, image in paths:
            pairs[image] = label_folders.of(path.parent) / f"{path.stem}.txt"
    if not pairs:
        raise BadInput(f"{config.file}: no images in {', '.join(map(str, places))}")
    if all(place.suffix.lower() != ".txt" for place in places):  # a list may name some of the images
        known = set(pairs.values())
        texts = [file for parent in {label.parent for label in known} for file in files_in(parent, (".txt",))]
        if orphans := [file.name for file in texts if file not in known and is_label(file)]:
            left_out[NO_IMAGE_FOR_LABELS] = orphans
    folder = Path(os.path.commonpath([image.parent for image in pairs]))
    labels = {image.relative_to(folder).as_posix(): label for image, label in pairs.items()}
    return LabelledImages(places[0] if len(places) == 1 else config.file, folder, labels, left_out)


def _lines_of_list(config: Config, file: Path, follow: bool) -> Iterable[tuple[Path, Path]]:
    """Path and real path of each image in a list. Each folder is searched once."""
    folders: dict[str, tuple[Path, Path]] = {}
    own = replace(config, file=file, path="")
    for number, line in enumerate(read_text(file).splitlines(), 1):
        written = line.strip().replace("\\", "/")
        if not written:
            continue
        parent, _, name = written.rpartition("/")
        if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES or "\0" in written:
            Record(file, f"line {number}").fail(f"is {line.strip()!r}, not the path of an image")
        if parent not in folders:
            folders[parent] = _folder_of_lines(config, own, parent, follow)
        path, real = folders[parent]
        yield path / name, real / name


def _folder_of_lines(config: Config, own: Config, parent: str, follow: bool) -> tuple[Path, Path]:
    """The folder of images in a list: relative to the list, else to the configuration."""
    for base in (own, config):
        try:
            path = base.existing(parent or ".", follow)
        except BadInput as error:
            if error.settings or base is config:
                raise
            continue
        real = config.resolved(path, follow)
        if real is not None and real.is_dir():
            return path, real
    raise BadInput(f"{own.file}: the folder {parent} does not exist")


class _LabelFolders:
    """The folders of label files, by folder of images."""

    def __init__(self, config: Config, follow: bool) -> None:
        self._config, self._follow = config, follow
        self._known: dict[Path, Path] = {}

    def of(self, images: Path) -> Path:
        """The folder of the label files of the images in a folder."""
        if images not in self._known:
            self._known[images] = self._find(images)
        return self._known[images]

    def _find(self, images: Path) -> Path:
        above = self._config.file.parent.resolve().parent
        parts = images.absolute().parts
        # Folders above the data set may be called images, too.
        first = len(above.parts) if images.absolute().is_relative_to(above) else 0
        candidates = []
        for i in range(len(parts) - 1, first - 1, -1):
            if parts[i].lower() in IMAGE_FOLDERS:
                candidates += [Path(*parts[:i], name, *parts[i + 1 :]) for name in ("labels", "Labels")]
                break
        candidates.append(images)
        real = [folder for path in candidates if (folder := self._config.resolved(path, self._follow)) is not None]
        with_labels = [folder for folder in real if files_in(folder, (".txt",), 1)]
        return (with_labels or real or candidates)[0]


def parallel_labels(folder: Path) -> list[Path]:
    """The folder of the label files of the images in a folder, or in a folder of it; empty if there is none."""
    above = _LabelFolders(Config(folder.absolute().parent / "images", {}), follow=True)
    for images in (folder, *folders_in(folder)):
        if has_images(images, depth=0):
            labels = above.of(images)
            return [labels] if any(is_label(file) for file in files_in(labels, (".txt",), PEEK)) else []
    return []


def images_of_folder(place: LabelFolder, follow: bool) -> LabelledImages:
    """Images and label files without a configuration. Images and labels of equal names belong together."""
    files = ImageFiles(place.images, follow)
    if not files.names:
        raise BadInput(f"{place.images} has no images: expected {', '.join(IMAGE_SUFFIXES)} files")
    labels = {name: place.labels / f"{os.path.splitext(name)[0]}.txt" for name in files.names}
    orphans = []
    for stem, path in label_files(place.labels, ".txt"):
        if (image := files.of_stem(stem)) is not None:
            labels[image] = path
        elif is_label(path):
            orphans.append(f"{stem}.txt")
    reasons = {NO_IMAGE: files.others, NO_IMAGE_FOR_LABELS: orphans}
    left_out = {reason: names for reason, names in reasons.items() if names}
    return LabelledImages(place.labels, place.images, labels, left_out)


def is_label(file: Path) -> bool:
    """Whether a text file is a label file: its first line has a class and at least four numbers."""
    first = next((line for line in start_of(file).splitlines() if line.strip()), "")
    try:
        return len([float(token) for token in first.split()]) >= 5
    except ValueError:
        return False


def is_list(file: Path) -> bool:
    """Whether a text file lists images."""
    if file.suffix.lower() != ".txt":
        return False
    first = next((line.strip() for line in start_of(file).splitlines() if line.strip()), "")
    return os.path.splitext(first)[1].lower() in IMAGE_SUFFIXES and bool(parts_of(first))
