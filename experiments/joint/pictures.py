"""Draws what all heads predict for an image in one picture: class map, boxes and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data.bands import displayable
from detection.draw import above_score, draw_boxes
from engine.colors import class_colors
from engine.text import font_of
from segmentation.draw import overlay, palette_of

LONGER = 720  # px: images with a shorter longer side are enlarged to it
PANEL, PAD = 250, 14  # px: width of the panel, and its margins
SIZE, ROW = 14, 22  # px: text, and lines of the panel
MIN_SCORE, OPACITY = 0.3, 0.45
MOST = 3  # classes of a classifier that are listed
INK, GRAY, BAR, TRACK = (30, 34, 40), (110, 116, 124), (36, 104, 176), (226, 229, 233)


def draw(image: np.ndarray, task: Any, predictions: dict[str, Any], config: Any = None) -> np.ndarray:
    """The image with class map and boxes, next to a panel with the names of the classes.

    Classes of the same name have the same colour in all heads.

    Args:
        image: (H, W, 3) uint8 RGB, or another image, see `data.bands.displayable`.
        task: the joint task.
        predictions: of one image, by head, in its pixels.
        config: has `min_score` and `opacity`.

    Returns (H', W', 3) uint8 RGB.
    """
    min_score = MIN_SCORE if config is None else config.min_score
    opacity = OPACITY if config is None else config.opacity
    kinds = task.config.kinds
    classes = {name: task.tasks[name].info.classes for name in kinds}
    colors = _colors([(classes[name], kinds[name] == "segmentation") for name in kinds])
    scene, zoom = _enlarged(displayable(image))
    panel = _Panel(scene.shape[0])
    for name in [name for name in kinds if kinds[name] == "classification"]:
        panel.heading(name)
        values, best = predictions[name][0].exp().topk(min(MOST, len(classes[name])))
        for value, index in zip(values.tolist(), best.tolist(), strict=True):
            panel.bar(classes[name][index], value)
    for name in [name for name in kinds if kinds[name] == "segmentation"]:
        labels = predictions[name][0].cpu().numpy().astype(np.uint8)
        palette = np.array([colors[label] for label in classes[name]], np.uint8)
        large = np.asarray(Image.fromarray(labels).resize(scene.shape[1::-1], Image.Resampling.NEAREST))
        scene = overlay(scene, large, palette, opacity)
        panel.heading(name)
        counts = np.bincount(labels.ravel(), minlength=len(palette))[: len(palette)]
        for index in np.argsort(-counts, kind="stable"):
            if counts[index]:
                percent = 100 * counts[index] / labels.size
                share = f"{percent:.0f}%" if percent >= 0.5 else "< 1%"
                panel.key(classes[name][index], tuple(palette[index].tolist()), share)
    for name in [name for name in kinds if kinds[name] == "detection"]:
        boxes, scores, labels = above_score(predictions[name], min_score)
        palette = np.array([colors[label] for label in classes[name]], np.uint8)
        scene = draw_boxes(scene, boxes * zoom, labels, classes[name], scores, palette=palette)
        panel.heading(name)
        counts = np.bincount(labels, minlength=len(palette))
        for index in np.argsort(-counts, kind="stable"):
            if counts[index]:
                panel.key(classes[name][index], tuple(palette[index].tolist()), str(counts[index]))
        if not len(boxes):
            panel.note(f"no score of {100 * min_score:.0f}% or more")
    return np.concatenate([scene, panel.picture()], axis=1)


def _enlarged(image: np.ndarray) -> tuple[np.ndarray, float]:
    height, width = image.shape[:2]
    zoom = max(1.0, LONGER / max(height, width))
    size = round(width * zoom), round(height * zoom)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)), zoom


def _colors(heads: Sequence[tuple[Sequence[str], bool]]) -> dict[str, tuple[int, int, int]]:
    """Colour of each class name. Those of class maps come first, because their areas need colours that differ most."""
    found: dict[str, tuple[int, int, int]] = {}
    for classes, has_map in sorted(heads, key=lambda head: not head[1]):
        palette = palette_of(classes) if has_map else class_colors(len(classes))
        for name, color in zip(classes, palette.tolist(), strict=True):
            found.setdefault(name, (color[0], color[1], color[2]))
    return found


class _Panel:
    """The panel beside the image. Lines that do not fit are left out.

    Args:
        height: of the picture, px.
    """

    def __init__(self, height: int) -> None:
        self._image = Image.new("RGB", (PANEL, height), "white")
        self._canvas = ImageDraw.Draw(self._image)
        self._top = PAD

    def heading(self, text: str) -> None:
        """The name of a head."""
        if self._top > PAD:
            self._top += ROW // 2
        self._write(text, PAD, GRAY)
        self._top += ROW

    def note(self, text: str) -> None:
        """A line of text."""
        self._write(text, PAD, INK)
        self._top += ROW

    def key(self, text: str, color: tuple[int, ...], value: str) -> None:
        """A class with its colour and a number."""
        if self._fits(ROW):
            self._canvas.rectangle((PAD, self._top + 2, PAD + SIZE, self._top + 2 + SIZE), fill=color)
        self._write(text, PAD + SIZE + 8, INK, value)
        self._top += ROW

    def bar(self, text: str, share: float) -> None:
        """A class with its probability."""
        self._write(text, PAD, INK, f"{100 * share:.0f}%")
        right = PANEL - PAD
        if self._fits(ROW + 8):
            top = self._top + ROW - 3
            self._canvas.rectangle((PAD, top, right, top + 5), fill=TRACK)
            if round((right - PAD) * share):
                self._canvas.rectangle((PAD, top, PAD + round((right - PAD) * share), top + 5), fill=BAR)
        self._top += ROW + 10

    def picture(self) -> np.ndarray:
        """(height, 250, 3) uint8 RGB."""
        return np.asarray(self._image)

    def _fits(self, height: int) -> bool:
        return self._top + height <= self._image.height

    def _write(self, text: str, left: int, color: tuple[int, int, int], value: str = "") -> None:
        if not self._fits(ROW):
            return
        number, plain = font_of(value, SIZE)
        room = PANEL - PAD - left - (plain.getlength(number) + 8 if value else 0)
        shown, font = font_of(text, SIZE)
        while len(shown) > 1 and font.getlength(shown) > room:
            shown, font = font_of(f"{shown.removesuffix('…')[:-1]}…", SIZE)
        self._canvas.text((left, self._top), shown, fill=color, font=font)
        if value:
            self._canvas.text((PANEL - PAD, self._top), number, fill=color, font=plain, anchor="ra")
