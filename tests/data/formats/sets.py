"""Small data sets for the tests of formats: images on disk, and what a reader found."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.columns import BoxColumns
from data.open import locate
from data.options import BoxOptions


def image(path, height=20, width=40, turn=None):
    """Write an image of noise. `turn`: EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    Image.fromarray(pixels).save(path, exif=exif)


def text(path, content):
    """Write a text file with Unix line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8", newline="\n")
    return path


def tree(root, files):
    """Write files: a text, bytes, or (height, width) for an image."""
    for name, content in files.items():
        if isinstance(content, tuple):
            image(root / name, *content)
        elif isinstance(content, bytes):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        else:
            text(root / name, content)
    return root


def read(root, split="train", kind="boxes", may_be_path=False, **options) -> BoxColumns:
    """The columns of a split, in the format that is recognised."""
    form, place = locate(kind, Path(root), split, settings := BoxOptions(**options), may_be_path)
    return form.read(place, settings)


def format_of(root, split="train"):
    """Name of the recognised format."""
    return locate("boxes", Path(root), split, BoxOptions())[0].name


def objects(columns):
    """Image -> list of (class, x1, y1, x2, y2), rounded to 1e-6 px, in the order of the file."""
    found = {name: [] for name in columns.names}
    for image, label, box in zip(columns.image, columns.label, columns.boxes.tolist(), strict=True):
        found[columns.names[image]].append((columns.classes[label], *(round(value, 6) for value in box)))
    return found
