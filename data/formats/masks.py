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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.errors import BadInput, UserError
from data.batch import IGNORE
from data.columns import MaskColumns, digest_of
from data.formats import Format, Sniffed, Split, ade20k
from data.images import IMAGE_SUFFIXES, MAX_PIXELS
from data.options import MaskOptions

_START = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE = 0, 3  # PNG colour types


def sniff(root: Path) -> Sniffed | None:
    """Folders `images` and `annotations` with the same split folders."""
    found = splits(root)
    return Sniffed(0.8, f"images/{found[0]} and annotations/{found[0]} exist") if found else None


def splits(root: Path) -> list[str]:
    """Folders that exist in both `images` and `annotations`."""
    images, masks = root / "images", root / "annotations"
    if not images.is_dir() or not masks.is_dir():
        return []
    return [path.name for path in sorted(images.iterdir()) if path.is_dir() and (masks / path.name).is_dir()]


def read(split: Split, options: MaskOptions) -> MaskColumns:
    """Images and masks of the same stem. Raises BadInput for several images of one name."""
    root, name = split.root, split.name
    images, masks = root / "images" / name, root / "annotations" / name
    follow = bool(options.follow_links)
    names, mask_names = _list(images, IMAGE_SUFFIXES, follow), _list(masks, (".png",), follow)
    if not names:
        raise BadInput(f"{images} has no images: expected {', '.join(IMAGE_SUFFIXES)} files")
    stems = [Path(image).stem for image in names]
    if len(set(stems)) < len(stems):
        duplicate = next(stem for stem in stems if stems.count(stem) > 1)
        raise BadInput(f"{images} has several images called {duplicate}: they would share one mask")
    by_stem = {Path(mask).stem: mask for mask in mask_names}
    class_file = root / "classes.txt"
    classes, first = _classes(class_file)
    lookup, is_valid = _values(len(classes), first, options.ignore_index)
    files = [masks / by_stem.get(stem, f"{stem}.png") for stem in stems]
    described = f"{class_file} names" if class_file.is_file() else "ADE20K has"

    unused = sorted(by_stem.keys() - set(stems))
    return MaskColumns(
        source=masks,
        folder=images,
        names=names,
        image_ids=np.arange(len(names)),
        classes=classes,
        label_digest=digest_of(classes, lookup),
        left_out={"they have no image": [f"{stem}.png" for stem in unused]} if unused else {},
        class_map=_ClassMaps(files, lookup, is_valid, f"{described} {len(classes)} classes"),
        mask_files=files,
        ignored=frozenset(range(len(classes))) - frozenset(lookup.tolist()),
    )


FORMAT = Format(
    name="masks",
    kind="masks",
    layout="""
        ROOT/images/{train,val}/ with images, ROOT/annotations/{train,val}/ with a PNG mask for each, and the class
        names in ROOT/classes.txt (without it: ADE20K)""",
    sniff=sniff,
    splits=splits,
    read=read,
)


@dataclass(frozen=True)
class _ClassMaps:
    """Reads the class maps of the mask files.

    Attributes:
        files: PNG files of class indices.
        lookup: (256,) uint8, class index of each mask value.
        is_valid: (256,) bool, whether a mask value is known.
        classes: what lists how many classes, for messages.
    """

    files: Sequence[Path]
    lookup: np.ndarray
    is_valid: np.ndarray
    classes: str

    def __call__(self, index: int) -> np.ndarray:
        """(H, W) uint8 class indices and `IGNORE`. Raises BadInput if it is unreadable or has an unknown value."""
        path = self.files[index]
        values = read_indices(path)
        counts = np.bincount(values.ravel(), minlength=256)
        unknown = np.flatnonzero((counts > 0) & ~self.is_valid)
        if len(unknown):
            value, last = int(unknown[0]), int(np.flatnonzero(self.is_valid)[-1])
            raise BadInput(
                f"mask {path} has {counts[value]} pixels of value {value}, but {self.classes}, with values up to "
                f"{last}. If these pixels have no class, set `ignore_index={value}`.",
                settings=("data.ignore_index",),
            )
        # A lookup table, since `mask - 1` in uint8 would turn ADE20K's 0 into 255.
        return self.lookup[values]


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


def _list(folder: Path, suffixes: tuple[str, ...], follow: bool) -> list[str]:
    """Sorted file names with one of the suffixes. Unless `follow`, raises BadInput for a link out of the folder."""
    boundary, names = folder.resolve(), []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.lower().endswith(suffixes):
                    continue
                if not follow and entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(boundary):
                    raise BadInput(
                        f"{entry.path} is a link that leads out of {folder}: refused. To read it, pass "
                        "`follow_links=True`",
                        settings=("data.follow_links",),
                    )
                names.append(entry.name)
    except OSError as error:
        raise BadInput(f"cannot list {folder}: {error.strerror}") from error
    return sorted(names)


def _classes(file: Path) -> tuple[tuple[str, ...], int]:
    """Class names, and the mask value of the first class."""
    if not file.is_file():
        return ade20k.CLASSES, 1
    try:
        names = tuple(line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    if not names or len(names) > IGNORE or len(set(names)) < len(names):
        problem = "is empty" if not names else f"has {len(names)} names, with duplicates or more than {IGNORE}"
        raise BadInput(f"{file} {problem}: expected one class name per line, in the order of the mask values")
    return names, 0


def _values(classes: int, first: int, ignore_index: int | Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """For each mask value: (256,) uint8 class index, `IGNORE` for no class; and (256,) bool, whether it is valid."""
    index_of_value, is_valid = np.full(256, IGNORE, np.uint8), np.zeros(256, bool)
    is_valid[: first + classes] = True  # values below the first class are "other"
    index_of_value[first : first + classes] = np.arange(classes)
    ignored = [] if ignore_index is None else [ignore_index] if isinstance(ignore_index, int) else list(ignore_index)
    for value in ignored:
        if not 0 <= value <= 255:
            message = f"`ignore_index={value}` is not a value of an 8-bit mask, 0 to 255"
            raise UserError(message, settings=("data.ignore_index",))
        is_valid[value], index_of_value[value] = True, IGNORE
    return index_of_value, is_valid
