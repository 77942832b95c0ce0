"""Draws boxes, class names and scores on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from data.bands import displayable
from engine.colors import class_colors
from engine.text import font_of

if TYPE_CHECKING:
    from detection.postprocess import Detections

LEGIBLE = 480  # px; smaller images are enlarged to this length of the longer side, so that text is legible


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
    with_names: bool = True,
    palette: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of the image, uint8 RGB, with labelled boxes. Images with a longer side below 480 px are enlarged to that.

    Args:
        image: (H, W, 3) uint8 RGB, or another image, see `data.bands.displayable`.
        boxes: (N, 4) xyxy in pixels of the image. The first box is drawn last, on top.
        labels: (N,) indices into `names`.
        names: class names.
        scores: (N,) in 0..1, written in percent.
        with_names: whether to write class names and scores beside the boxes.
        palette: (K, 3) uint8 RGB, colours of the classes; by default `engine.colors.class_colors`.
    """
    height, width = image.shape[:2]
    zoom = max(1.0, LEGIBLE / max(height, width))
    picture = Image.fromarray(displayable(image)).resize(
        (round(width * zoom), round(height * zoom)), Image.Resampling.LANCZOS
    )
    canvas = ImageDraw.Draw(picture)
    size = max(11, round(max(picture.size) / 55))
    colors = (class_colors(len(names)) if palette is None else palette).tolist()
    for i in reversed(range(len(boxes))):
        x1, y1, x2, y2 = (float(v) * zoom for v in boxes[i])
        color = tuple(colors[int(labels[i])])
        canvas.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=color, width=max(2, size // 7))
        if not with_names:
            continue
        text, font = font_of(names[int(labels[i])], size)
        text += f" {100 * float(scores[i]):.0f}" if scores is not None else ""
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        x = min(max(0.0, x1), picture.width - (right - left) - 4)
        y = y1 - (bottom - top) - 4
        y = y if y >= 0 else y1
        canvas.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=color)
        dark = sum(color) > 380  # black on light, white on dark
        canvas.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)
    return np.asarray(picture)


def side_by_side(left: np.ndarray, right: np.ndarray, captions: tuple[str, str], gap: int = 8) -> np.ndarray:
    """Two (H, W, 3) uint8 RGB pictures of equal height next to each other, `gap` px apart, each below its caption."""
    height, width = left.shape[:2]
    band = 28
    picture = Image.new("RGB", (width + gap + right.shape[1], height + band), "white")
    for x, part, caption in ((0, left, captions[0]), (width + gap, right, captions[1])):
        text, font = font_of(caption, 16)
        picture.paste(Image.fromarray(part), (x, band))
        ImageDraw.Draw(picture).text((x + 4, 4), text, fill="black", font=font)
    return np.asarray(picture)


def above_score(detections: Detections, min_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections of the first image with at least `min_score`: (N, 4) boxes, (N,) scores, (N,) labels."""
    selected = (detections.scores[0] >= min_score) & (detections.labels[0] >= 0)
    boxes, scores, labels = (field[0][selected].cpu().numpy() for field in detections)
    return boxes, scores, labels
