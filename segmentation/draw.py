"""Draw class maps: palettes, overlays with a legend, and PNG files whose pixel values are class indices."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.batch import IGNORE
from data.formats import ade20k

MIN_SIDE = 480  # px: images with a shorter longest side are enlarged to it
OPACITY = 0.6
NO_CLASS = (0, 0, 0)  # colour of pixels without a class
GAP = 8  # px between the parts of a picture


def palette_of(classes: Sequence[str]) -> np.ndarray:
    """Class colours, (K, 3) uint8 RGB: ADE20K's own, else hues spaced by the golden ratio, in three brightnesses."""
    if tuple(classes) == ade20k.CLASSES:
        return ade20k.PALETTE
    colors = [
        colorsys.hsv_to_rgb((0.58 + i * 0.618034) % 1, (0.8, 0.55, 0.9)[i % 3], (0.95, 0.8, 0.6)[i % 3])
        for i in range(len(classes))
    ]
    return np.round(255 * np.array(colors).reshape(-1, 3)).astype(np.uint8)


def colored(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class map (H, W) uint8 -> its colours (H, W, 3) uint8 RGB. `IGNORE` is black."""
    table = np.full((256, 3), NO_CLASS, np.uint8)
    table[: len(palette)] = palette
    table[IGNORE] = NO_CLASS
    return table[labels]


def palette_png(labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A palette image of a class map (H, W) uint8. Its pixel values are the class indices."""
    table = np.full((256, 3), NO_CLASS, np.uint8)
    table[: len(palette)] = palette
    picture = Image.fromarray(labels)
    picture.putpalette(table.ravel().tolist())
    return picture


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """Blend an image, (H, W, 3) uint8 RGB, with the colours of its class map (H, W), and enlarge it if it is small."""
    mixed = (1 - opacity) * image + opacity * colored(labels, palette)
    height, width = image.shape[:2]
    zoom = max(1.0, MIN_SIDE / max(height, width))
    picture = Image.fromarray(np.round(mixed).astype(np.uint8))
    return np.asarray(picture.resize((round(width * zoom), round(height * zoom)), Image.Resampling.BILINEAR))


def legend(labels: Sequence[np.ndarray], names: Sequence[str], palette: np.ndarray, height: int) -> np.ndarray:
    """Legend, (height, W, 3) uint8 RGB, of the classes in any of the maps: the largest first, as many as fit."""
    counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in labels], axis=0)[: len(names)]
    size = max(11, min(18, height // 24))
    line = round(1.5 * size)
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
    fitting = max(1, (height - GAP) // line)
    shown = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]][:fitting]
    width = 3 * GAP + size + max((round(font.getlength(names[i])) for i in shown), default=0)
    picture = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(picture)
    for row, index in enumerate(shown):
        top = GAP // 2 + row * line
        canvas.rectangle((GAP, top, GAP + size, top + size), fill=tuple(palette[index].tolist()))
        canvas.text((2 * GAP + size, top + size / 2), names[index], fill="black", font=font, anchor="lm")
    return np.asarray(picture)


def beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join pictures of equal height, (H, W, 3) uint8 RGB, from left to right, with white gaps."""
    gap = np.full((parts[0].shape[0], GAP, 3), 255, np.uint8)
    row = [piece for part in parts for piece in (part, gap)][:-1]
    return np.concatenate(row, axis=1)
