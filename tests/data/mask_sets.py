"""Writes small segmentation data sets, for tests of what mask files really contain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from backbones.errors import UserError, with_flags
from data.mask_dataset import MaskDataset
from data.open import read_train_val
from data.options import MaskOptions

Pixels = np.ndarray | Image.Image


def class_map(seed: int = 0, classes: int = 3, height: int = 16, width: int = 24) -> np.ndarray:
    """(H, W) uint8: class 0 with a rectangle of each further class, none of which is covered completely."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((height, width), np.uint8)
    side = width // classes
    for label in range(1, classes):
        x, y = label * side, int(random.integers(0, height // 2))
        pixels[y : y + height // 2, x : x + side] = label
    return pixels


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    """Write an array or a PIL image; the suffix determines the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def photo(path: Path, height: int = 16, width: int = 24) -> Path:
    """Write an image of noise."""
    return save(path, np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def write_masks(
    root: Path,
    stored: Callable[[np.ndarray], Pixels] = lambda mask: mask,
    names: str | None = "background\nred\nblue\n",
    count: tuple[int, int] = (4, 2),
    mask_name: str = "annotations/{split}/{name}.png",
    image_name: str = "images/{split}/{name}.png",
    classes: int = 3,
) -> Path:
    """Two splits with images and masks.

    Args:
        root: folder to create.
        stored: class map -> what the mask file stores.
        names: content of classes.txt; None writes none.
        count: images in each split.
        mask_name, image_name: files, with {split} and {name}.
        classes: number of classes in the class maps.
    """
    for split, images in zip(("train", "val"), count, strict=True):
        for i in range(images):
            photo(root / image_name.format(split=split, name=f"{split}{i}"))
            save(root / mask_name.format(split=split, name=f"{split}{i}"), stored(class_map(i, classes)))
    if names is not None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "classes.txt").write_text(names, "utf-8")
    return root


def read_maps(root: Path, split: str = "train", **options: object) -> tuple[MaskDataset, list[np.ndarray]]:
    """The data set of a split, and its class maps."""
    data = MaskDataset.open(root, split, options=MaskOptions(**options))  # type: ignore[arg-type]
    return data, [data.columns.class_map(i) for i in range(len(data))]


def first_error(root: Path, **options: object) -> str:
    """What a command prints when it opens the data set for training; "" if it can."""
    settings = MaskOptions(**options)  # type: ignore[arg-type]
    try:
        train, val, _ = read_train_val("masks", root, settings, 0.0)
        MaskDataset(train, options=settings).check_training()
        assert val is not None
        MaskDataset(val, options=settings).check_scored()
    except UserError as error:
        return with_flags(error)
    return ""
