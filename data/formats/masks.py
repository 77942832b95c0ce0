"""Segmentation data: images, and a PNG of class indices for each, in ADE20K's layout or a generic one.

ADE20K, where 0 is "other" and ignored and 1 to 150 are its classes:
    ROOT/images/{training,validation}/*.jpg    ROOT/annotations/{training,validation}/*.png
Any other data, counted from 0 in the order of the names, one a line; folders may have either name:
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
from data.reader import Fraction, ImageReader, Transform, share

ALIASES = {"train": "training", "val": "validation"}
SUFFIXES = (".jpg", ".jpeg", ".png")
BLANK = (64, 64)  # height and width of the stand-in for an unreadable image without a readable mask, px
_START = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE = 0, 3  # PNG colour types


@dataclass(frozen=True)
class SegmentationReport:
    """What was read, over the selected images."""

    images: int
    masks_without_image: int  # of the whole split; left alone


class MaskFolders(ImageReader):
    """Images with a class for every pixel; `dataset[index]` for evaluation, `dataset[Draw(index, seed)]` for training.

    A sample's `mask` is (H, W) uint8: indices into `classes`, and `IGNORE` where a pixel belongs to none.

    classes: names, in the order of the indices.
    image_ids: (n,) int64, the position among all images of the split by name, whatever `fraction`.
    report: a `SegmentationReport`.

    `fraction` picks that share of the images, by `seed` alone. `ignore_index` is the value in the files that means no
    class, besides ADE20K's 0. See `ImageReader` for the rest.

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
        ignore_index: int | None = None,
    ) -> None:
        root = Path(root)
        images, self.masks = _locate(root, split)
        names, masks = _list(images, SUFFIXES), _list(self.masks, (".png",))
        if not names:
            raise BadInput(f"{images} has no images: {', '.join(SUFFIXES)} files are looked for")
        stems = [Path(name).stem for name in names]
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise BadInput(f"{images} has several images called {twice}: they would share one mask")
        present = {Path(name).stem for name in masks}
        missing = [f"{stem}.png" for stem in stems if stem not in present]
        if len(missing) > skip_bad:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise BadInput(f"{len(missing)} of {len(names)} images in {images} have no mask in {self.masks}: {shown}")

        self._source = root / "classes.txt"
        self.classes, first = _classes(self._source)
        self._table, self._known = _values(len(self.classes), first, ignore_index)
        chosen = share(len(names), fraction, seed)
        told = "\0".join(self.classes).encode() + self._table.tobytes()
        super().__init__(images, [names[i] for i in chosen], chosen, transform, skip_bad, told)
        self.report = SegmentationReport(len(self), len(present - set(stems)))

    def mask_path(self, index: int) -> Path:
        """The file with the classes of an image."""
        return self.masks / f"{self.path(index).stem}.png"

    def files(self, index: int) -> list[Path]:
        """The image and its mask."""
        return [self.path(index), self.mask_path(index)]

    def read(self, index: int) -> Sample:
        """The image with its mask, in original pixels."""
        image, mask = read_image(self.path(index)), self.mask(index)
        if image.shape[:2] != mask.shape:
            raise BadInput(
                f"image {self.path(index)} is {image.shape[1]} x {image.shape[0]} pixels, but its mask "
                f"{self.mask_path(index)} is {mask.shape[1]} x {mask.shape[0]}: they must be of one size"
            )
        return self._labelled(index, image, mask)

    def blank(self, index: int) -> Sample:
        """Black pixels that belong to no class."""
        try:
            height, width = read_indices(self.mask_path(index)).shape
        except BadInput:
            height, width = BLANK
        shape = (height, width)
        return self._labelled(index, np.zeros((*shape, 3), np.uint8), np.full(shape, IGNORE, np.uint8))

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8 class indices and `IGNORE`. Raises BadInput naming the file, also for a value of no class."""
        path = self.mask_path(index)
        values = read_indices(path)
        counts = np.bincount(values.ravel(), minlength=256)
        unknown = np.flatnonzero((counts > 0) & ~self._known)
        if len(unknown):
            value, last = int(unknown[0]), int(np.flatnonzero(self._known)[-1])
            told = f"{self._source} names" if self._source.is_file() else "ADE20K has"
            raise BadInput(
                f"mask {path} has {counts[value]} pixels of value {value}, but {told} {len(self.classes)} classes, "
                f"with values up to {last}. If it means no class at all, say --data.ignore_index {value}."
            )
        # By table, never by arithmetic: in uint8, ADE20K's `mask - 1` would wrap around.
        return self._table[values]

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
    """The values of a single-channel PNG as stored, (H, W) uint8: gray levels, or indices into the file's palette.

    Raises BadInput naming the file where it is absent, damaged, too large, or of another kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read mask {path}: {error.strerror}") from error
    if not data.startswith(_START) or len(data) < 26:
        raise BadInput(f"mask {path} is not a PNG ({len(data)} bytes): lossy formats would blur classes into others")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if width * height > MAX_PIXELS:
        raise BadInput(f"mask {path} claims {width} x {height} pixels, more than {MAX_PIXELS / 1e6:.0f} megapixels")
    if not (colour == _PALETTE or (colour == _GRAY and bits in (1, 8))):
        kind = f"{bits}-bit gray" if colour == _GRAY else "colours" if colour in (2, 6) else "gray with alpha"
        raise BadInput(f"mask {path} holds {kind}, not class indices: save it as 8-bit gray or with a palette")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image).astype(np.uint8)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BadInput(f"cannot decode mask {path} ({len(data)} bytes): {error}") from error


def _locate(root: Path, split: str) -> tuple[Path, Path]:
    """Image and mask folder of a split."""
    generic = (root / "classes.txt").is_file()
    own = split if generic else ALIASES.get(split, split)
    layout = f"expected {root}/images/{own}/ with images and {root}/annotations/{own}/ with a PNG of classes for each"
    if not generic:
        layout += f" (ADE20K), or {root}/{{images,annotations}}/{split}/ and the class names in {root}/classes.txt"
    if not root.is_dir():
        raise BadInput(f"no data set at {root}: there is no such folder; {layout}")
    if os.sep in split or split in ("", ".", ".."):
        raise BadInput(f"split {split!r} is not the name of a folder in {root}/images: refused, not read")
    found = []
    for kind in ("images", "annotations"):
        candidates = [root / kind / own, *([root / kind / ALIASES[split]] if generic and split in ALIASES else [])]
        existing = [path for path in candidates if path.is_dir()]
        if not existing:
            raise BadInput(f"data set {root} has no folder {candidates[0]}; {layout}")
        found.append(existing[0])
    return found[0], found[1]


def _list(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Sorted file names with one of the suffixes. Raises BadInput for a link that leads out of the folder."""
    inside, names = folder.resolve(), []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.lower().endswith(suffixes):
                    continue
                if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(inside):
                    raise BadInput(f"{entry.path} is a link that leads out of {folder}: refused, not read")
                names.append(entry.name)
    except OSError as error:
        raise BadInput(f"cannot list {folder}: {error.strerror}") from error
    return sorted(names)


def _classes(file: Path) -> tuple[tuple[str, ...], int]:
    """Class names, and the value of the first class in the masks."""
    if not file.is_file():
        return ade20k.CLASSES, 1
    try:
        names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    if not names or len(names) > IGNORE or len(set(names)) < len(names):
        wrong = "is empty" if not names else f"has {len(names)} names, some of them twice or more than {IGNORE} in all"
        raise BadInput(f"{file} {wrong}: it has to hold the class names, one a line, in the order of the masks' values")
    return names, 0


def _values(classes: int, first: int, ignore_index: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(256,) uint8 class of each value in a file, `IGNORE` for no class; and (256,) bool, whether it may occur."""
    table, known = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    known[: first + classes] = True  # what comes before the first class is "other"
    table[first : first + classes] = np.arange(classes)
    if ignore_index is not None:
        if not 0 <= ignore_index <= 255:
            raise UserError(f"--data.ignore_index {ignore_index} is no value of an 8-bit mask: 0 to 255")
        known[ignore_index], table[ignore_index] = True, IGNORE
    return table, known
