"""Draw class maps: palettes, overlays with a legend, and PNG files whose pixel values are class indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from data.bands import displayable
from data.batch import IGNORE
from data.formats import ade20k
from engine.colors import VARIED, class_colors
from engine.text import font_of

MIN_SIDE = 480  # px: images with a shorter longest side are enlarged to it
OPACITY = 0.6
NO_CLASS = (0, 0, 0)  # colour of pixels without a class
GAP = 8  # px between the parts of a picture


def palette_of(classes: Sequence[str]) -> np.ndarray:
    """Class colours, (K, 3) uint8 RGB: ADE20K's own, else hues spaced by the golden ratio, in three brightnesses."""
    if tuple(classes) == ade20k.CLASSES:
        return ade20k.PALETTE
    return class_colors(len(classes), VARIED)


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
    """Blend an image with the colours of its class map (H, W), and enlarge it if it is small.

    `image`: (H, W, 3) uint8 RGB, or another image, see `data.bands.displayable`.
    """
    mixed = (1 - opacity) * displayable(image) + opacity * colored(labels, palette)
    height, width = image.shape[:2]
    zoom = max(1.0, MIN_SIDE / max(height, width))
    picture = Image.fromarray(np.round(mixed).astype(np.uint8))
    return np.asarray(picture.resize((round(width * zoom), round(height * zoom)), Image.Resampling.BILINEAR))


def legend(labels: Sequence[np.ndarray], names: Sequence[str], palette: np.ndarray, height: int) -> np.ndarray:
    """Legend, (height, W, 3) uint8 RGB, of the classes in any of the maps: the largest first, as many as fit."""
    counts = np.sum([np.bincount(part.ravel(), minlength=256) for part in labels], axis=0)[: len(names)]
    size = max(11, min(18, height // 24))
    line = round(1.5 * size)
    fitting = max(1, (height - GAP) // line)
    shown = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]][:fitting]
    texts = [font_of(names[i], size) for i in shown]
    width = 3 * GAP + size + max((round(font.getlength(text)) for text, font in texts), default=0)
    picture = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(picture)
    for row, (index, (text, font)) in enumerate(zip(shown, texts, strict=True)):
        top = GAP // 2 + row * line
        canvas.rectangle((GAP, top, GAP + size, top + size), fill=tuple(palette[index].tolist()))
        canvas.text((2 * GAP + size, top + size / 2), text, fill="black", font=font, anchor="lm")
    return np.asarray(picture)


def beside(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join pictures of equal height, (H, W, 3) uint8 RGB, from left to right, with white gaps."""
    gap = np.full((parts[0].shape[0], GAP, 3), 255, np.uint8)
    row = [piece for part in parts for piece in (part, gap)][:-1]
    return np.concatenate(row, axis=1)
