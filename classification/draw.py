"""Draw an image next to its most probable classes, and a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.bands import displayable
from engine.text import font_of, plot_labels

SIDE = 448  # px: longer side of the drawn image
PANEL = 380  # px: width of the list of classes
ROW = 56  # px: height of a row of the list
BLUE, GREEN, GRAY = (36, 104, 176), (34, 139, 84), (225, 228, 232)
MAX_LABELS = 40  # with more classes, a confusion matrix has no class names


def draw_scores(
    image: np.ndarray, names: Sequence[str], probabilities: Sequence[float], truth: str | None = None
) -> np.ndarray:
    """Draw the image, resized, next to bars for its most probable classes.

    Args:
        image: (H, W, 3) uint8 RGB, or another image, see `data.bands.displayable`.
        names: class names, the most probable first.
        probabilities: of these classes, in 0..1.
        truth: name of the true class. It is written above the bars, and its bar is green.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    top = ROW if truth is not None else 12
    picture = Image.new("RGB", (width + PANEL, max(height, top + ROW * len(names) + 8)), "white")
    picture.paste(Image.fromarray(displayable(image)).resize((width, height), Image.Resampling.LANCZOS))
    canvas, left, room = ImageDraw.Draw(picture), width + 20, PANEL - 40
    if truth is not None:
        text, font = _truncated(f"truth: {truth}", 18, room)
        canvas.text((left, 14), text, fill="black", font=font)
    for i, (name, share) in enumerate(zip(names, probabilities, strict=True)):
        y = top + ROW * i
        percent, plain = font_of(f"{100 * share:.1f}%", 17)
        text, font = _truncated(name, 17, room - plain.getlength(percent) - 12)
        canvas.text((left, y), text, fill="black", font=font)
        canvas.text((left + room, y), percent, fill="black", font=plain, anchor="ra")
        canvas.rectangle((left, y + 27, left + room, y + 37), fill=GRAY)
        if round(room * share) > 0:
            color = GREEN if name == truth else BLUE
            canvas.rectangle((left, y + 27, left + round(room * share), y + 37), fill=color)
    return np.asarray(picture)


def _truncated(text: str, size: int, width: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text, shortened with dots to a width of `width` px, and its font."""
    text, font = font_of(text, size)
    if font.getlength(text) <= width:
        return text, font
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "...", font


def draw_confusion(counts: np.ndarray, names: Sequence[str], file: Path) -> None:
    """Draw a confusion matrix. Each row is normalised. Up to 40 classes, it shows class names and counts.

    Args:
        counts: (K, K) or (K, K + 1) number of images by true class (rows) and predicted class (columns). An additional
            last column counts all other outputs of the model.
        names: of the K classes.
        file: image file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes, columns = counts.shape
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(14.0, 3.2 + 0.36 * classes) if classes <= MAX_LABELS else 9.0
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(shown, ax=axes, shrink=0.7, label="share of the class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class")
    if classes <= MAX_LABELS:
        labels, families = plot_labels(names)
        axes.set_xticks(range(columns), [*labels, "other"][:columns], rotation=90, fontsize=8, fontfamily=families)
        axes.set_yticks(range(classes), labels, fontsize=8, fontfamily=families)
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=color)
    figure.savefig(file, dpi=110)
