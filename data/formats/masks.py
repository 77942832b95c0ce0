"""Segmentation data: images, and for each a PNG of class indices, in ADE20K's layout or a generic one.

ADE20K. Mask value 0 is "other" and ignored; 1 to 150 are the classes:
    ROOT/images/{training,validation}/*.jpg    ROOT/annotations/{training,validation}/*.png
Generic. classes.txt has one class name per line; mask values are line numbers from 0. ADE20K's folder names also work:
    ROOT/images/{train,val}/*    ROOT/annotations/{train,val}/*.png    ROOT/classes.txt
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.errors import BadInput, UserError
from data.batch import IGNORE, Sample
from data.formats import ade20k
from data.images import MAX_PIXELS, read_image
from data.reader import Fraction, ImageReader, Transform, subset_indices

ALIASES = {"train": "training", "val": "validation"}
SUFFIXES = (".jpg", ".jpeg", ".png")
BLANK = (64, 64)  # height and width of the black image that replaces an unreadable image and mask, px
_START = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE = 0, 3  # PNG colour types


@dataclass(frozen=True)
class SegmentationReport:
    """Counts."""

    images: int  # selected
    masks_without_image: int  # in the whole split; ignored


class MaskFolders(ImageReader):
    """Images with a class for every pixel; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    A sample's `mask` is (H, W) uint8: indices into `classes`, and `IGNORE` for pixels without a class.

    Attributes:
        classes: class names in the order of the indices.
        image_ids: (n,) int64, index among all images of the split sorted by name, independent of `fraction`.
        report: a `SegmentationReport`.

    Args:
        root: root of the data set.
        split: such as "train" or "val".
        transform: see `ImageReader`.
        fraction: size of the random subset of the images to use, see `subset_indices`.
        seed: of the subset.
        skip_bad: see `ImageReader`.
        ignore_index: mask value of pixels without a class, besides ADE20K's 0.

    Raises `BadInput` with the folder and the cause; if folders are missing, also with the expected layout. Raises
    `UserError` for an `ignore_index` outside of 0..255.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        transform: Transform | None = None,
        fraction: Fraction = 1.0,
        seed: int = 0,
        skip_bad: int = 0,
        ignore_index: int | None = None,
    ) -> None:
        root = Path(root)
        images, self.masks = _locate(root, split)
        names, masks = _list(images, SUFFIXES), _list(self.masks, (".png",))
        if not names:
            raise BadInput(f"{images} has no images: expected {', '.join(SUFFIXES)} files")
        stems = [Path(name).stem for name in names]
        if len(set(stems)) < len(stems):
            duplicate = next(stem for stem in stems if stems.count(stem) > 1)
            raise BadInput(f"{images} has several images called {duplicate}: they would share one mask")
        present = {Path(name).stem for name in masks}
        missing = [f"{stem}.png" for stem in stems if stem not in present]
        if len(missing) > skip_bad:
            examples = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise BadInput(
                f"{len(missing)} of {len(names)} images in {images} have no mask in {self.masks}: {examples}"
            )

        self._class_file = root / "classes.txt"
        self.classes, first = _classes(self._class_file)
        self._index_of_value, self._is_valid = _values(len(self.classes), first, ignore_index)
        selected = subset_indices(len(names), fraction, seed)
        label_bytes = "\0".join(self.classes).encode() + self._index_of_value.tobytes()
        super().__init__(images, [names[i] for i in selected], selected, transform, skip_bad, label_bytes)
        self.report = SegmentationReport(len(self), len(present - set(stems)))

    @property
    def ignored_classes(self) -> frozenset[int]:
        """Indices of the classes that no mask can contain, because their value is `ignore_index`."""
        return frozenset(range(len(self.classes))) - frozenset(self._index_of_value.tolist())

    def mask_path(self, index: int) -> Path:
        """The mask file of an image."""
        return self.masks / f"{self.path(index).stem}.png"

    def files(self, index: int) -> list[Path]:
        """The image and its mask."""
        return [self.path(index), self.mask_path(index)]

    def read(self, index: int) -> Sample:
        """Image and mask in original pixels. Raises BadInput if they differ in size or cannot be read."""
        image, mask = read_image(self.path(index)), self.mask(index)
        if image.shape[:2] != mask.shape:
            raise BadInput(
                f"image {self.path(index)} is {image.shape[1]} x {image.shape[0]} pixels, but its mask "
                f"{self.mask_path(index)} is {mask.shape[1]} x {mask.shape[0]}: the sizes must be equal"
            )
        return self._labelled(index, image, mask)

    def blank(self, index: int) -> Sample:
        """A black image whose pixels have no class."""
        try:
            height, width = read_indices(self.mask_path(index)).shape
        except BadInput:
            height, width = BLANK
        shape = (height, width)
        return self._labelled(index, np.zeros((*shape, 3), np.uint8), np.full(shape, IGNORE, np.uint8))

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8 class indices and `IGNORE`. Raises BadInput if it is unreadable or has an unknown value."""
        path = self.mask_path(index)
        values = read_indices(path)
        counts = np.bincount(values.ravel(), minlength=256)
        unknown = np.flatnonzero((counts > 0) & ~self._is_valid)
        if len(unknown):
            value, last = int(unknown[0]), int(np.flatnonzero(self._is_valid)[-1])
            source = f"{self._class_file} names" if self._class_file.is_file() else "ADE20K has"
            raise BadInput(
                f"mask {path} has {counts[value]} pixels of value {value}, but {source} {len(self.classes)} classes, "
                f"with values up to {last}. If these pixels have no class, set `ignore_index={value}`.",
                settings=("data.ignore_index",),
            )
        # A lookup table, since `mask - 1` in uint8 would turn ADE20K's 0 into 255.
        return self._index_of_value[values]

    def _labelled(self, index: int, image: np.ndarray, mask: np.ndarray) -> Sample:
        return Sample(
            image=image,
            image_id=int(self.image_ids[index]),
            size=(image.shape[0], image.shape[1]),
            scale=(1.0, 1.0),
            boxes=np.zeros((0, 4), np.float32),
            labels=np.zeros(0, np.int64),
            mask=mask,
        )


def read_indices(path: Path) -> np.ndarray:
    """The stored values of a single-channel PNG, (H, W) uint8: gray levels, or indices into the file's palette.

    Raises BadInput with the file if it is missing, damaged, too large, or of another kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read mask {path}: {error.strerror}") from error
    if not data.startswith(_START) or len(data) < 26:
        raise BadInput(f"mask {path} is not a PNG ({len(data)} bytes): lossy formats change class values")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if width * height > MAX_PIXELS:
        raise BadInput(f"mask {path} has {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} megapixels")
    if not (colour == _PALETTE or (colour == _GRAY and bits in (1, 8))):
        kind = f"{bits}-bit gray" if colour == _GRAY else "colours" if colour in (2, 6) else "gray with alpha"
        raise BadInput(f"mask {path} has {kind}, not class indices: save it as 8-bit gray or with a palette")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image).astype(np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot decode mask {path} ({len(data)} bytes): {error}") from error


def _locate(root: Path, split: str) -> tuple[Path, Path]:
    """Image and mask folder of a split. Raises BadInput with the expected layout if one is missing."""
    generic = (root / "classes.txt").is_file()
    name = split if generic else ALIASES.get(split, split)
    layout = f"expected {root}/images/{name}/ with images and {root}/annotations/{name}/ with a PNG mask for each"
    if not generic:
        layout += f" (ADE20K), or {root}/{{images,annotations}}/{split}/ and the class names in {root}/classes.txt"
    if not root.is_dir():
        raise BadInput(f"no data set at {root}: there is no such folder; {layout}")
    if os.sep in split or split in ("", ".", ".."):
        raise BadInput(f"split {split!r} is not the name of a folder in {root}/images: refused")
    folders = []
    for kind in ("images", "annotations"):
        candidates = [root / kind / name, *([root / kind / ALIASES[split]] if generic and split in ALIASES else [])]
        existing = [path for path in candidates if path.is_dir()]
        if not existing:
            raise BadInput(f"data set {root} has no folder {candidates[0]}; {layout}")
        folders.append(existing[0])
    return folders[0], folders[1]


def _list(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Sorted file names with one of the suffixes. Raises BadInput for a link that leads out of the folder."""
    boundary, names = folder.resolve(), []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.lower().endswith(suffixes):
                    continue
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(boundary):
                    raise BadInput(f"{entry.path} is a link that leads out of {folder}: refused")
                names.append(entry.name)
    except OSError as error:
        raise BadInput(f"cannot list {folder}: {error.strerror}") from error
    return sorted(names)


def _classes(file: Path) -> tuple[tuple[str, ...], int]:
    """Class names, and the mask value of the first class."""
    if not file.is_file():
        return ade20k.CLASSES, 1
    try:
        names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    if not names or len(names) > IGNORE or len(set(names)) < len(names):
        problem = "is empty" if not names else f"has {len(names)} names, with duplicates or more than {IGNORE}"
        raise BadInput(f"{file} {problem}: expected one class name per line, in the order of the mask values")
    return names, 0


def _values(classes: int, first: int, ignore_index: int | None) -> tuple[np.ndarray, np.ndarray]:
    """For each mask value: (256,) uint8 class index, `IGNORE` for no class; and (256,) bool, whether it is valid."""
    index_of_value, is_valid = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    is_valid[: first + classes] = True  # values below the first class are "other"
    index_of_value[first : first + classes] = np.arange(classes)
    if ignore_index is not None:
        if not 0 <= ignore_index <= 255:
            message = f"`ignore_index={ignore_index}` is not a value of an 8-bit mask, 0 to 255"
            raise UserError(message, settings=("data.ignore_index",))
        is_valid[ignore_index], index_of_value[ignore_index] = True, IGNORE
    return index_of_value, is_valid
