"""What mask values and colours mean: the class of each, or none.

The sources of a legend are the data set's own label map and the settings `mask_values`, `mask_colors` and
`ignore_index`. Rules:

- Values with the same name are one class. Classes are in the order of their first value; of colours, in the order of
  the file.
- The names unlabeled, unlabelled, void, ignore and ignored, in a label map with values or colours, mean: no class.
- A value of `ignore_index` has no class. Its name stays in the class list, but the class is not scored.
- In a table with colours only, a mask with one channel has the row numbers, from 0, as values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from backbones.errors import BadInput, UserError
from data.batch import IGNORE
from data.class_names import plain_name
from data.label_maps import LabelMap, parse_pairs, read_label_map
from data.mask_files import LARGEST
from data.options import MaskOptions

NO_CLASS = {"unlabeled", "unlabelled", "void", "ignore", "ignored"}
UNKNOWN = 0xFFFF  # entry of a lookup table
NO_COLOR = 1 << 24  # stands for the colour of an index beyond the palette
MAX_CLASSES = IGNORE  # class maps are uint8, and 255 is `IGNORE`


@dataclass(frozen=True)
class Legend:
    """The class of each mask value and colour.

    Attributes:
        source: the file or setting that names the classes, for messages.
        classes: K names.
        values: mask value -> class index, `IGNORE` for no class.
        colors: 0xRRGGBB -> class index, `IGNORE` for no class; empty if the data have no colour table.
        ignored: indices of classes that no mask can contain, because `ignore_index` has their values.
        names: mask value -> name, as in the source.
        without_class: names in the source that mean no class -> their values or colours, as texts.
        standard: see `LabelMap`.
        positional: whether the values are positions in a list of names, from 0.
        exact: whether the settings name the values, so that values of lossy masks are rounded to them.
        rows: whether the values are the row numbers of the colours.
    """

    source: str
    classes: tuple[str, ...]
    values: dict[int, int]
    colors: dict[int, int] = field(default_factory=dict)
    ignored: frozenset[int] = frozenset()
    names: dict[int, str] = field(default_factory=dict)
    without_class: dict[str, list[str]] = field(default_factory=dict)
    positional: bool = False
    exact: bool = False
    rows: bool = False
    standard: bool = False

    def value_table(self) -> np.ndarray:
        """(65536,) uint16: class index of each value, `IGNORE` for no class, `UNKNOWN` for an unknown value."""
        table = np.full(LARGEST + 1, UNKNOWN, np.uint16)
        table[list(self.values)] = list(self.values.values())
        return table

    def color_table(self) -> np.ndarray:
        """(2^24 + 1,) uint16: the same for each colour 0xRRGGBB and for `NO_COLOR`. 32 MB."""
        table = np.full(NO_COLOR + 1, UNKNOWN, np.uint16)
        table[list(self.colors)] = list(self.colors.values())
        return table

    @property
    def described(self) -> str:
        """The source and what it names, for messages, such as `classes.txt names 3 classes`."""
        count = f"{len(self.classes)} class{'' if len(self.classes) == 1 else 'es'}"
        return f"{self.source} {'has' if self.standard else 'names'} {count}"


def legend_of(label_map: LabelMap | None, options: MaskOptions, root: Path) -> Legend:
    """The legend from the settings, else from the data set's own label map.

    Args:
        label_map: of the data set; None if the settings name the classes.
        options: how to read. `mask_values` and `mask_colors` replace the data set's label map.
        root: folder of the data set. Files that the settings name are relative to the current folder or to it.

    Raises BadInput for a malformed file and for more than 255 classes, UserError for impossible settings.
    """
    named = [_of_values(options, root)] if options.mask_values else []
    named += [read_label_map(_existing(options.mask_colors, root, "mask_colors"))] if options.mask_colors else []
    if named:
        values = named[0].values or named[-1].values
        label_map = LabelMap(named[-1].source, values, named[-1].colors, positional=all(m.positional for m in named))
    assert label_map is not None
    return with_ignored(build(label_map, exact=bool(named)), options.ignore_index)


def build(label_map: LabelMap, exact: bool = False, void: bool = True) -> Legend:
    """The legend of a label map.

    Args:
        label_map: names of values and colours.
        exact: see `Legend`.
        void: whether the names in `NO_CLASS` mean no class. In plain lists of names they are ordinary names.

    Raises BadInput for more than 255 classes, and if no class remains.
    """
    values, colors = label_map.values, label_map.colors
    if not values:
        values = dict(enumerate(colors.values()))
    void = void and not (label_map.positional and not colors)
    ordered = list(dict.fromkeys([*values.values(), *colors.values()]))
    classes = tuple(name for name in ordered if not (void and is_void(name)))
    if not classes or len(classes) > MAX_CLASSES:
        count = f"{len(classes)} classes, more than {MAX_CLASSES}" if classes else "no class"
        raise BadInput(f"{label_map.source} names {count}: a class map has 1 to {MAX_CLASSES} classes")
    index = {name: i for i, name in enumerate(classes)}
    without: dict[str, list[str]] = {}
    if void and not label_map.standard:
        for value, name in label_map.values.items():
            if is_void(name):
                without.setdefault(name, []).append(f"value {value}")
        for color, name in colors.items():
            if is_void(name):
                without.setdefault(name, []).append(f"colour {rgb_text(color)}")
    return Legend(
        source=label_map.source,
        classes=classes,
        values={value: index.get(name, IGNORE) for value, name in values.items()},
        colors={color: index.get(name, IGNORE) for color, name in colors.items()},
        names=dict(values),
        without_class=without,
        positional=label_map.positional,
        exact=exact,
        rows=not label_map.values,
        standard=label_map.standard,
    )


def with_ignored(legend: Legend, ignore_index: int | Sequence[int] | None) -> Legend:
    """The legend without a class for these values. Raises UserError for impossible values."""
    listed = [] if ignore_index is None else [ignore_index] if isinstance(ignore_index, int) else list(ignore_index)
    for value in listed:
        if not 0 <= value <= LARGEST:
            message = f"`ignore_index={value}` is not a mask value, 0 to {LARGEST}"
            raise UserError(message, settings=("data.ignore_index",))
    values = legend.values | dict.fromkeys(listed, IGNORE)
    names = {legend.names[value] for value in listed if value in legend.names}
    remaining = set(values.values())
    ignored = frozenset(i for i, name in enumerate(legend.classes) if name in names and i not in remaining)
    if len(ignored) == len(legend.classes):
        raise UserError(f"`ignore_index={ignore_index}` leaves no class", settings=("data.ignore_index",))
    colors = {
        color: IGNORE if index in ignored or (legend.rows and row in listed) else index
        for row, (color, index) in enumerate(legend.colors.items())
    }
    return replace(legend, values=values, colors=colors, ignored=ignored)


def is_void(name: str) -> bool:
    """Whether a name means no class."""
    return plain_name(name) in NO_CLASS


def rgb_text(color: int) -> str:
    """0xRRGGBB as `R G B`."""
    return f"{color >> 16} {color >> 8 & 255} {color & 255}"


def _of_values(options: MaskOptions, root: Path) -> LabelMap:
    """The label map of `mask_values`: texts VALUE=NAME, or a file."""
    listed = options.mask_values
    assert listed
    if len(listed) == 1 and "=" not in listed[0]:
        found = read_label_map(_existing(listed[0], root, "mask_values"))
        if not found.values:
            raise BadInput(
                f"{found.source} names colours, not values: pass it as `mask_colors`", settings=("data.mask_colors",)
            )
        return found
    return parse_pairs(listed, "`mask_values`")


def _existing(name: str, root: Path, setting: str) -> Path:
    folder = root if root.is_dir() else root.parent
    found = next((path for path in (Path(name), folder / name) if path.is_file()), None)
    if found is None:
        raise BadInput(f"`{setting}={name}`: this file does not exist", settings=(f"data.{setting}",))
    return found
