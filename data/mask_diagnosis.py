"""Explain unknown values and colours of masks: what they probably mean, and the setting that reads them so.

Ignoring a value hides its pixels from training and from the score. It turns a label mistake into a high score, so it is
proposed only if no other explanation fits, and never for a value that is probably a class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from math import gcd
from pathlib import Path

from backbones.errors import BadInput
from data.legend import Legend, rgb_text

BORDER = 255  # the usual value of pixels without a class
MOST_SHOWN = 12
PHOTO = 32  # a mask with more values than this, and with many more than there are names, has been blurred
MAX_COLORS = 256  # masks with more colours than this have been blurred
NEAR = 16  # values of a lossy mask this close to 0 or 255 are meant to be equal to it
MOST_NEAR = 0.9  # share of such pixels from which a lossy mask is probably binary
INSTANCES = range(24_000, 34_000)  # Cityscapes: label id * 1000 + number of the instance, for ids 24 to 33
SETTINGS = ("data.ignore_index", "data.mask_values", "data.mask_colors")

Counts = Mapping[int, int]


@dataclass
class Found:
    """What a sample of the masks of a split contains.

    Attributes:
        counts: mask value -> number of pixels.
        colors: 0xRRGGBB -> number of pixels.
        by_file: the values of each mask.
        files: number of masks.
    """

    counts: Counter[int] = field(default_factory=Counter)
    colors: Counter[int] = field(default_factory=Counter)
    by_file: list[frozenset[int]] = field(default_factory=list)
    files: int = 0

    def add(self, values: Counts, colors: Counts) -> None:
        """Add a mask."""
        self.counts.update(values)
        self.colors.update(colors)
        self.by_file.append(frozenset(values))
        self.files += 1


def unknown_values(path: Path, counts: Counts, legend: Legend, found: Found) -> BadInput:
    """The error for a mask with values that the legend does not have.

    Args:
        path: the mask.
        counts: its values, with the number of their pixels.
        legend: the known values.
        found: what a sample of the masks contains; with the values of this mask.
    """
    value = min(value for value in counts if value not in legend.values)
    known = sorted(legend.values)
    up_to = f"values up to {known[-1]}" if _is_range(known) else f"the values {_listed(known)}"
    reason = (
        _cityscapes(path, found)
        or _blurred(found, legend)
        or (_of_positions(found, legend) if legend.positional else None)
        or _no_class(value, found, legend)
    )
    return BadInput(
        f"mask {path} has {counts[value]} pixels of value {value}, but {legend.described}, with {up_to}. {reason}",
        settings=SETTINGS,
    )


def _cityscapes(path: Path, found: Found) -> str | None:
    if "instanceIds" in path.stem or any(value in INSTANCES for value in found.counts):
        return (
            "These are Cityscapes' instanceIds, label id * 1000 + number of the object. Read the files labelIds of the "
            "same images instead"
        )
    if "labelIds" in path.stem:
        return (
            "These are Cityscapes' labelIds, 0 to 33, of which 19 are classes. In Cityscapes' folders, leftImg8bit and "
            "gtFine, they are read as those 19 classes; elsewhere name each value with `mask_values`"
        )
    return None


def _blurred(found: Found, legend: Legend) -> str | None:
    if len(found.counts) <= max(PHOTO, 2 * len(legend.values)):
        return None
    known = sum(count for value, count in found.counts.items() if value in legend.values)
    share = 100 * (1 - known / max(1, found.counts.total()))
    return (
        f"{len(found.counts)} different values occur, and {share:.1f}% of the pixels have none of the known ones: the "
        "masks are photographs, or were resized with interpolation or saved with lossy compression, which changes "
        "class values. Write them again from their source, without interpolation, as PNG"
    )


def _of_positions(found: Found, legend: Legend) -> str | None:
    """Explanations for a list of names, whose mask values are the positions from 0."""
    names = [legend.names[value] for value in sorted(legend.names)]
    count, seen = len(names), set(found.counts)
    inner = seen - {BORDER}
    if seen <= {0, BORDER}:
        return _binary(names)
    if count == 2 and inner == {0, 1} and not any({1, BORDER} <= values for values in found.by_file):
        return (
            "Some masks have the values 0 and 1, others 0 and 255, so 255 also stands for class 1: pass "
            f"{mask_values({0: names[0], 1: names[1], BORDER: names[1]})}"
        )
    border = f" and `ignore_index={BORDER}` if value {BORDER} has no class" if BORDER in seen and count < BORDER else ""
    if inner and 0 not in inner and max(inner) == count:
        values = dict(enumerate(names, 1))
        return (
            f"The masks count from 1: value 0 does not occur and value {count} does. Pass {mask_values(values)}{border}"
        )
    if inner == set(range(count + 1)):
        return _name_missing(names, border)
    step = reduce(gcd, inner)
    if step > 1 and max(inner) // step < count and len(inner) >= min(3, count):
        values = {index * step: name for index, name in enumerate(names)}
        return (
            f"All values are multiples of {step}: class indices times {step}, which makes them visible. Pass "
            f"{mask_values(values)}{border}"
        )
    # 255 is usually a border. Beside evenly spaced values, such as 0, 128 and 255, it is a class.
    spacing = [later - earlier for earlier, later in pairwise(sorted(seen))]
    is_even = len(spacing) > 0 and max(spacing) - min(spacing) < 3
    if len(seen) == count and 0 in seen and max(inner) >= count and (is_even or BORDER not in seen):
        values = dict(zip(sorted(seen), names, strict=True))
        return (
            f"The {count} values {_listed(sorted(seen))} occur, as many as there are names: probably each is a class. "
            f"If they are in the order of the names, pass {mask_values(values)}"
        )
    return None


def _binary(names: Sequence[str]) -> str:
    only = "The only values are 0 and 255: the masks are binary"
    if len(names) == 2:
        return f"{only}, and 255 stands for class 1, {names[1]}. Pass {mask_values({0: names[0], BORDER: names[1]})}"
    if len(names) == 1:
        return (
            f"{only}, and a name for value 0 or 255 is missing. Pass {mask_values({0: 'background', BORDER: names[0]})}"
        )
    values = mask_values({0: names[0], BORDER: names[1]})
    return f"{only}, and 255 stands for one of the classes {_listed(names)}. Pass, for example, {values}"


def _name_missing(names: Sequence[str], border: str) -> str:
    count = len(names)
    first = mask_values(dict(enumerate(["background", *names])))
    text = (
        f"The values 0 to {count} occur, one more than there are names: a name for value 0 or {count} is missing. If "
        f"it is that of value 0, such as the background, pass {first}{border}"
    )
    if count == 1:
        return text
    return (
        f"{text}. If the missing name is that of value {count}, add it at the end of the list; if value {count} has no "
        f"class, pass `ignore_index={count}`"
    )


def _no_class(value: int, found: Found, legend: Legend) -> str:
    others = [other for other in sorted(found.counts) if other not in legend.values and other != value]
    share = 100 * found.counts[value] / max(1, found.counts.total())
    text = (
        f"If it is a class, add its name. If these pixels ({share:.1f}% of all) have no class, set "
        f"`ignore_index={value}`"
    )
    if others:
        values = [value, *others]
        text += f". {_listed(others)} {'is' if len(others) == 1 else 'are'} unknown, too"
        text += f"; several values are ignored with `ignore_index={values}`" if len(values) <= MOST_SHOWN else ""
    return text


def unknown_colors(path: Path, counts: Counts, legend: Legend | None, found: Found) -> BadInput:
    """The error for a mask of colours that the legend does not have. The arguments are those of `unknown_values`."""
    known = {} if legend is None else legend.colors
    text = "They store colours, not values"
    if legend is not None:
        color = max((color for color in counts if color not in known), key=lambda color: counts[color])
        text = f"mask {path} has {counts[color]} pixels of the colour {rgb_text(color)}, but {legend.described}"
    unknown = [color for color, _ in found.colors.most_common() if color not in known]
    if len(found.colors) > (max(PHOTO, 2 * len(known)) if known else MAX_COLORS):
        return BadInput(
            f"{text}. {len(found.colors)} different colours occur in {found.files} masks: they are photographs, or "
            "were resized with interpolation or saved with lossy compression. Write them again from their source as PNG"
        )
    if known:
        lines = "\n".join(f"  {rgb_text(color)} NAME" for color in unknown[:MOST_SHOWN])
        return BadInput(
            f"{text}, and not this colour. Add a line for each unknown colour to the table, with the name void for "
            f"pixels without a class:\n{lines}",
            settings=SETTINGS,
        )
    names = [] if legend is None else list(dict.fromkeys(legend.names.values()))
    to_use = f" and the names {_listed(names)}" if names else ""
    if legend is not None:
        text += " and not those of colours"
    return BadInput(
        f"{text}. The classes of the {len(unknown)} colours that occur are not known. Write a "
        f"file with one line R G B NAME for each colour{to_use}, and pass it as `mask_colors=FILE`. Pixels without a "
        f"class have the name void. The colours are:\n{_color_lines(unknown, names)}",
        settings=SETTINGS,
    )


def _color_lines(colors: Sequence[int], names: Sequence[str]) -> str:
    """Lines R G B NAME. The names are known if the colours are those of Pascal VOC's palette."""
    palette = [voc_color(index) for index in range(len(names))]
    is_voc = bool(names) and set(colors) <= set(palette)
    shown = [color for color in palette if color in colors] if is_voc else sorted(colors)
    lines = [
        f"  {rgb_text(color)} {names[palette.index(color)] if is_voc else 'NAME'}" for color in shown[: 2 * MOST_SHOWN]
    ]
    return "\n".join([*lines, f"  ... {len(shown) - len(lines)} more"] if len(shown) > len(lines) else lines)


def voc_color(index: int) -> int:
    """0xRRGGBB of an index in Pascal VOC's palette, as VOCdevkit's VOClabelcolormap.m computes it."""
    red = green = blue = 0
    for bit in range(8):
        red |= (index >> (3 * bit) & 1) << (7 - bit)
        green |= (index >> (3 * bit + 1) & 1) << (7 - bit)
        blue |= (index >> (3 * bit + 2) & 1) << (7 - bit)
    return red << 16 | green << 8 | blue


def no_names(folder: Path, found: Found, advice: str) -> BadInput:
    """The error for masks whose data set does not name the classes."""
    if found.colors:
        error = unknown_colors(folder, found.colors, None, found)
        return BadInput(f"no class names for the masks in {folder}. {error}", settings=error.settings)
    values = sorted(found.counts)
    named = {value: "background" if value == 0 else "NAME" for value in values if value != BORDER or len(values) <= 2}
    if len(values) > MOST_SHOWN:
        show = f"{len(values)} different values occur, from {values[0]} to {values[-1]}"
    else:
        show = f"The values {_listed(values)} occur in the {found.files} checked masks. Pass {mask_values(named)}"
        show += f" and `ignore_index={BORDER}`" if BORDER not in named and BORDER in values else ""
    return BadInput(f"no class names for the masks in {folder}. {show}, or {advice}", settings=SETTINGS)


def lossy(path: Path, kind: str, counts: Counts, legend: Legend | None) -> BadInput:
    """The error for a mask in a format that changes values."""
    total = sum(counts.values())
    near = sum(count for value, count in counts.items() if value <= NEAR or value >= 255 - NEAR)
    text = f"mask {path} is a {kind} file: lossy compression changes class values ({len(counts)} values occur)"
    if total and near >= MOST_NEAR * total and any(value > NEAR for value in counts):
        names = [legend.names[value] for value in sorted(legend.names)] if legend is not None else []
        values = dict(zip((0, BORDER), names if len(names) == 2 else ["background", "NAME"], strict=True))
        return BadInput(
            f"{text}. Nearly all pixels are close to 0 or 255: the masks are binary. Pass {mask_values(values)}, and "
            "values between are read as the nearest of the two",
            settings=SETTINGS,
        )
    return BadInput(f"{text}. Write the masks again from their source as PNG", settings=SETTINGS)


def mask_values(names: Mapping[int, str]) -> str:
    """The setting that names these values, for a message."""
    if len(names) > MOST_SHOWN:
        first = ", ".join(f"{value} {name}" for value, name in list(names.items())[:3])
        return f"`mask_values=FILE`, a file with a line VALUE NAME for each class: {first}, ..."
    pairs = [f"{value}={re.sub('`', chr(39), name)}" for value, name in names.items()]
    return f"`mask_values={pairs}`"


def _is_range(values: Sequence[int]) -> bool:
    return list(values) == list(range(len(values)))


def _listed(items: Iterable[object]) -> str:
    texts = [str(item) for item in items]
    shown = texts[:MOST_SHOWN]
    if len(texts) > len(shown):
        return f"{', '.join(shown)}, ..."
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
