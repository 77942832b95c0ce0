"""A picture of some images of each split with their labels drawn, as training reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from backbones.errors import UserError
from data.bands import displayable
from data.batch import Sample
from data.columns import Kind
from data.images import decode_image
from data.scan import evenly_spaced
from detection.draw import draw_boxes
from engine.colors import class_colors
from engine.text import font_of
from experiments.audit.splits import AuditedSplit, Opened, error_of
from segmentation.draw import colored, palette_of

COLUMNS = 4
ROWS = {"train": 2, "val": 1, "other": 1}
CELL = 480, 360  # px: width and height of an image in the picture
GAP, CAPTION = 10, 26  # px: between images; height of the text below each
CANDIDATES = 400  # images of a split from which those with rare classes are chosen
MOST_NAMED = 25  # with more objects in an image, their class is shown by colour only
LEGEND = 40  # classes of the legend
RED, BLACK, GRAY = (170, 20, 20), (0, 0, 0), (120, 120, 120)
SIZE = 15  # px: of text
TINT = 0.35  # opacity of the colour of a class
LINE = np.ones((5, 5), np.uint8)  # the line around an area is 2 px wide


def draw_sheet(opened: Opened, file: Path) -> Path | None:
    """Write the picture. None if there are no images."""
    rows: list[list[Image.Image]] = []
    shown: set[int] = set()
    for split in opened.splits:
        if split.columns is not None and len(split.columns):
            chosen = choose(split, opened.kind, COLUMNS * ROWS[split.role]).tolist()
            cells = [_cell(split, opened.kind, index, shown) for index in chosen]
            rows += [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    if not rows:
        return None
    width, height = CELL[0] + GAP, CELL[1] + CAPTION + GAP
    legend = _legend(opened, sorted(shown), COLUMNS * width - GAP)
    picture = Image.new("RGB", (COLUMNS * width + GAP, len(rows) * height + legend.height + 2 * GAP), "white")
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            picture.paste(cell, (GAP + column * width, GAP + row * height))
    picture.paste(legend, (GAP, GAP + len(rows) * height))
    picture.save(file, quality=88)
    return file


def choose(split: AuditedSplit, kind: Kind, count: int) -> np.ndarray:
    """Indices of images: those that add a class to the chosen ones first, the others evenly spaced."""
    total = len(split.columns)
    candidates = evenly_spaced(total, CANDIDATES)
    if kind == "masks" or split.dataset is None:
        return candidates[np.unique(np.linspace(0, len(candidates) - 1, count).round().astype(int))]
    has_class = split.dataset.label_counts()[candidates].toarray() > 0
    rarity = 1 / has_class.sum(0).clip(1)
    order = np.random.default_rng(0).permutation(len(candidates)).tolist()
    labelled, chosen = [i for i in order if has_class[i].any()], list[int]()
    covered = np.zeros(has_class.shape[1], bool)
    while labelled and len(chosen) < count:
        if not (has_class[labelled] & ~covered).any():
            covered[:] = False
        best = max(labelled, key=lambda i: float((has_class[i] & ~covered) @ rarity))
        covered |= has_class[best]
        labelled.remove(best)
        chosen.append(best)
    empty = [i for i in order if not has_class[i].any()]
    return np.sort(candidates[chosen + empty[: count - len(chosen)]])


def _cell(split: AuditedSplit, kind: Kind, index: int, shown: set[int]) -> Image.Image:
    """An image with its labels, and a caption. Adds its classes to `shown`."""
    cell = Image.new("RGB", (CELL[0], CELL[1] + CAPTION), "white")
    label = ""
    try:
        sample = _read(split, index)
        picture = Image.fromarray(_drawn(split, kind, sample))
        picture.thumbnail(CELL, Image.Resampling.LANCZOS)
        shown.update(np.unique(sample.labels if sample.mask is None else sample.mask).tolist())
        cell.paste(picture, ((CELL[0] - picture.width) // 2, (CELL[1] - picture.height) // 2))
        if kind == "classes" and split.dataset is not None:
            label = split.dataset.classes[int(sample.labels[0])]
        elif kind == "boxes":
            label = f"{len(sample.boxes)} boxes"
    except Exception as error:  # the image cannot be shown; the reason is
        _write(cell, error_of(error, split.columns.names[index]).text, (8, 8), RED, CELL[0] - 16, lines=12)
    end = _write(cell, label, (4, CELL[1] + 3), BLACK, CELL[0] // 2) + 8 if label else 4
    _write(cell, f"{split.name}: {Path(split.columns.names[index]).name}", (end, CELL[1] + 3), GRAY, CELL[0] - end - 4)
    return cell


def _read(split: AuditedSplit, index: int) -> Sample:
    if split.dataset is not None:
        return split.dataset.read(index)
    columns: Any = split.columns
    file = columns.folder / columns.names[index]
    try:
        content = file.read_bytes() if columns.content is None else columns.content(index)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    pixels = decode_image(content, file)
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return Sample(pixels, index, (pixels.shape[0], pixels.shape[1]), (1.0, 1.0), boxes, labels)


def _drawn(split: AuditedSplit, kind: Kind, sample: Sample) -> np.ndarray:
    """The image with its labels, (H, W, 3) uint8 RGB, scaled to the cell."""
    height, width = sample.image.shape[:2]
    scale = min(CELL[0] / width, CELL[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resampling = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    image = np.asarray(Image.fromarray(displayable(sample.image)).resize(size, resampling))
    if split.dataset is None:
        return image
    classes = split.dataset.classes
    if kind == "boxes":
        with_names = len(sample.boxes) <= MOST_NAMED
        return draw_boxes(image, sample.boxes * scale, sample.labels, classes, with_names=with_names)
    if sample.mask is not None:
        mask = np.asarray(Image.fromarray(sample.mask).resize(size, Image.Resampling.NEAREST))
        return _with_areas(image, mask, palette_of(classes))
    return image


def _with_areas(image: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The image, tinted by class, with a solid line along the inside of each area, so that small ones are visible."""
    solid = colored(mask, palette)
    blurred = cv2.erode(mask, LINE), cv2.dilate(mask, LINE)
    inside = (blurred[0] == blurred[1])[..., None]
    return np.where(inside, np.round((1 - TINT) * image + TINT * solid), solid).astype(np.uint8)


def _write(
    picture: Image.Image, text: str, place: tuple[int, int], color: tuple[int, int, int], width: int, lines: int = 1
) -> int:
    """Write a text in lines of a width in px; the last line is cut. Returns where it ends, in px."""
    canvas, (x, y) = ImageDraw.Draw(picture), place
    end = x
    for number in range(lines):
        line, text = _first_line(text, width, is_last=number == lines - 1)
        shown, font = font_of(line, SIZE)
        canvas.text((x, y), shown, fill=color, font=font)
        end, y = max(end, x + round(font.getlength(shown))), y + SIZE + 4
        if not text:
            break
    return end


def _first_line(text: str, width: int, is_last: bool) -> tuple[str, str]:
    """The start of a text that fits in a width in px, and the rest. The last line ends with dots instead of a rest."""

    def fits(end: int, dots: str) -> bool:
        shown, font = font_of(text[:end] + dots, SIZE)
        return font.getlength(shown) <= width

    if fits(len(text), ""):
        return text, ""
    dots = "..." if is_last else ""
    end = next((end for end in range(len(text), 0, -1) if fits(end, dots)), 1)
    return text[:end] + dots, "" if is_last else text[end:]


def _legend(opened: Opened, shown: list[int], width: int) -> Image.Image:
    """The colours of the classes that are shown, in lines of a width in px. Nothing for labels without colours."""
    classes = next((split.dataset.classes for split in opened.splits if split.dataset is not None), ())
    if opened.kind == "classes" or not classes:
        return Image.new("RGB", (1, 1), "white")
    colors = (palette_of(classes) if opened.kind == "masks" else class_colors(len(classes))).tolist()
    picture = Image.new("RGB", (width, 28 * LEGEND), "white")
    canvas, x, y = ImageDraw.Draw(picture), 0, 4
    for index in [index for index in shown if index < len(classes)][:LEGEND]:
        name, font = font_of(classes[index], 16)
        length = 26 + round(font.getlength(name)) + 18
        if x and x + length > width:
            x, y = 0, y + 28
        canvas.rectangle((x, y, x + 20, y + 20), fill=tuple(colors[index]))
        canvas.text((x + 26, y + 10), name, fill="black", font=font, anchor="lm")
        x += length
    return picture.crop((0, 0, width, y + 28))
