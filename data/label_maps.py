"""Files that name the classes of mask values or colours, as tools write them.

One reader for all of them: lists of names, `id: name` in YAML or JSON, CVAT's labelmap.txt, class_dict.csv, Roboflow's
_classes.csv, lines `R G B NAME`, and JSON records with ids, names and colours.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from backbones.errors import BadInput

LARGEST_FILE = 10_000_000  # bytes; a label map of 65,536 classes has less than 2 MB
# Names of fields, in lower case without spaces, underscores and hyphens.
_NAMES = ("name", "class", "label", "title", "classname", "labelname", "category")
_VALUES = ("id", "value", "index", "pixelvalue", "pngindex", "classid", "labelid", "values", "labels")
_COLORS = ("color", "colour", "rgb", "colorrgb", "hex", "hexcolor")
_LISTS = ("classes", "names", "categories", "labels", "id2label", "label2id", "items")

_RGB_LINE = re.compile(r"^\[?\(?\s*(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})\s*\)?\]?[\s,;:]+(\S.*)$")
_VALUE_LINE = re.compile(r"^(\d{1,5})\s*[=:,;\t ]\s*(\S.*)$")
_CVAT_LINE = re.compile(r"^(.+?):(\d{1,3}),(\d{1,3}),(\d{1,3}):")

_BRIEF = Repr()  # aliases of YAML can make a value whose full text does not fit in memory
_BRIEF.maxlevel, _BRIEF.maxstring = 2, 60

EXPECTED = (
    "Expected one class name per line, lines VALUE NAME or R G B NAME, a CSV file with the columns name,r,g,b, CVAT's "
    "labelmap.txt, or YAML or JSON with VALUE: NAME"
)


@dataclass(frozen=True)
class LabelMap:
    """Names of mask values and of colours. Several values may have one name, and are then one class.

    Attributes:
        source: the file or setting, for messages.
        values: value -> name, in the order of the classes.
        colors: 0xRRGGBB -> name, in the order of the classes.
        positional: whether the values are only the positions in a list, from 0.
        standard: whether it is that of a public data set, which needs no explanation.
    """

    source: str
    values: dict[int, str]
    colors: dict[int, str]
    positional: bool = False
    standard: bool = False


def read_label_map(file: Path) -> LabelMap:
    """The label map in a file. Its content decides how it is read; the suffix only chooses YAML, JSON and CSV.

    Raises BadInput if it is missing or malformed, or if it gives two names to one value or colour.
    """
    text, suffix = _text(file), file.suffix.lower()
    if suffix in (".yaml", ".yml", ".json"):
        found = _document(_parsed(text, file), file)
    elif suffix == ".csv":
        found = _csv(text, file)
    else:
        found = _lines(text, file)
    if not found.values and not found.colors:
        raise BadInput(f"{file} names no class. {EXPECTED}")
    return found


def class_list(file: Path) -> LabelMap:
    """One class name per line; mask values are line numbers from 0, empty lines not counted.

    Raises BadInput if the file cannot be read, is empty or has a name twice.
    """
    return _listed([line.strip() for line in _text(file).splitlines() if line.strip()], file)


def _listed(names: list[str], file: Path) -> LabelMap:
    names = names[1:] if names[:1] == ["__ignore__"] else names  # labelme numbers it -1
    if not names or len(set(names)) < len(names):
        problem = "is empty" if not names else f"has {len(names)} names, with duplicates"
        raise BadInput(f"{file} {problem}: expected one class name per line, in the order of the mask values")
    numbers = [_VALUE_LINE.match(name) for name in names]
    if len(names) > 1 and all(numbers):
        pairs = {int(found[1]): found[2] for found in numbers if found is not None}
        if len(pairs) == len(names) and list(pairs) != list(range(len(names))):
            shown = " ".join(f"'{value}={name}'" for value, name in list(pairs.items())[:5])
            raise BadInput(
                f"{file} numbers its names, from '{names[0]}' to '{names[-1]}', but mask values are line numbers from "
                f"0. If the numbers are the mask values, pass `mask_values={file}`, which reads them as {shown}"
                f"{' ...' if len(pairs) > 5 else ''}. If not, remove the numbers",
                settings=("data.mask_values",),
            )
    return LabelMap(str(file), dict(enumerate(names)), {}, positional=True)


def parse_pairs(pairs: Sequence[str], source: str) -> LabelMap:
    """The label map of texts VALUE=NAME. Raises BadInput for another text, and for two names of one value."""
    values: dict[int, str] = {}
    for pair in pairs:
        value, equals, name = pair.partition("=")
        if not equals or not _is_value(value) or not name.strip():
            raise BadInput(
                f"{source} has {pair!r}: expected VALUE=NAME with a value from 0 to 65535, such as 255=lesion"
            )
        _add(values, int(value), name.strip(), source)
    return LabelMap(source, dict(sorted(values.items())), {})


def label_map_of(content: Any, source: Path) -> LabelMap:
    """The label map in a part of a YAML or JSON document. Raises BadInput as `read_label_map` does."""
    return _document(content, source)


def parse_yaml(file: Path) -> Any:
    """The content of a YAML or JSON file. Scalars of YAML stay texts, so that a class may be called `no` or `3`."""
    return _parsed(_text(file), file)


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise BadInput(f"{file} has more than {LARGEST_FILE / 1e6:.0f} MB: it is not a list of classes")
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def _parsed(text: str, file: Path) -> Any:
    try:
        return json.loads(text) if file.suffix.lower() == ".json" else yaml.load(text, Loader=yaml.BaseLoader)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        kind = "JSON" if file.suffix.lower() == ".json" else "YAML"
        raise BadInput(f"{file} is not valid {kind}: {' '.join(str(error).split())}") from error


def _document(content: Any, file: Path) -> LabelMap:
    """VALUE: NAME, NAME: VALUE, NAME: COLOUR, a list of names, or a list of records."""
    values: dict[int, str] = {}
    colors: dict[int, str] = {}
    if isinstance(content, Mapping):
        lists = [part for key, part in content.items() if _plain(key) in _LISTS and isinstance(part, Mapping | list)]
        content = lists[0] if lists else content
    if isinstance(content, list) and all(isinstance(item, str | int | float) for item in content):
        names = [str(item).strip() for item in content]
        if len(set(names)) < len(names) or "" in names:
            raise BadInput(f"{file} has a list of {len(names)} names, with duplicates or empty names")
        return LabelMap(str(file), dict(enumerate(names)), {}, positional=True)
    records = (
        enumerate(content)
        if isinstance(content, list)
        else content.items()
        if isinstance(content, Mapping) and len(content) <= 65_536
        else None
    )
    if records is None:
        raise BadInput(f"{file} is not a label map. {EXPECTED}")
    for key, item in records:
        name, numbers, rgb = _record(key, item, isinstance(content, list), file)
        for number in numbers:
            _add(values, number, name, str(file))
        for color in rgb:
            _add(colors, color, name, str(file))
    return LabelMap(str(file), dict(sorted(values.items())), colors)


def _record(key: Any, item: Any, is_list: bool, file: Path) -> tuple[str, list[int], list[int]]:
    """Name, values and colours of one entry. Raises BadInput if it is not one."""
    if isinstance(item, Mapping):
        fields = {_plain(field): value for field, value in item.items()}
        name = next((fields[field] for field in _NAMES if isinstance(fields.get(field), str | int)), None)
        listed = next((fields[field] for field in _VALUES if field in fields), None)
        color = next((fields[field] for field in _COLORS if fields.get(field) is not None), None)
        if name is None and not is_list and not _is_value(key):
            name = key  # NAME: {id: ..., color: ...}
        if listed is None and not is_list and _is_value(key):
            listed = key  # VALUE: {name: ...}
        numbers = listed if isinstance(listed, list) else [] if listed is None else [listed]
        rgb = [number for number in numbers if isinstance(number, list)]
        values = [int(number) for number in numbers if _is_value(number)]
        if name is None or len(rgb) + len(values) < len(numbers):
            raise BadInput(f"{file} has the entry {_short(item)}, without a name or with an invalid value. {EXPECTED}")
        colors = [_color(value, file) for value in rgb]
        if color is not None:
            colors.append(_color(color, file))
        if not values and not colors:
            values = [int(key)] if _is_value(key) else []
        return str(name).strip(), values, colors
    if not is_list:
        if _is_value(key) and isinstance(item, str | int | float):
            return str(item).strip(), [int(key)], []
        if isinstance(item, list) or (isinstance(item, str) and item.startswith("#")):
            return str(key).strip(), [], [_color(item, file)]
        if _is_value(item):
            return str(key).strip(), [int(item)], []
    raise BadInput(f"{file} has the entry {_short(key)}: {_short(item)}. {EXPECTED}")


def _csv(text: str, file: Path) -> LabelMap:
    """Rows with the columns name and r, g, b, or value and name; without such a header: name, r, g, b."""
    rows = [[cell.strip() for cell in row] for row in _rows(text, file) if any(cell.strip() for cell in row)]
    header = [_plain(cell) for cell in rows[0]] if rows else []

    def column(names: Iterable[str]) -> int | None:
        return next((header.index(name) for name in names if name in header), None)

    name, value = column(_NAMES), column(_VALUES)
    rgb: list[int | None] = [column(names) for names in (("r", "red"), ("g", "green"), ("b", "blue"))]
    body = rows[1:]
    if name is None and rows and not any(_is_value(cell) for cell in rows[0]):
        raise BadInput(f"{file} has no column with names: {', '.join(rows[0][:8])}. {EXPECTED}")
    if name is None:
        body, numeric = rows, [i for i, cell in enumerate(rows[0]) if _is_value(cell)] if rows else []
        name = next((i for i in range(len(header)) if i not in numeric), None)
        if name is None or len(numeric) not in (1, 3):
            raise BadInput(f"{file} has no column with names. {EXPECTED}")
        value = numeric[0] if len(numeric) == 1 else None
        rgb = [None, None, None] if len(numeric) == 1 else [*numeric]
    color = column(_COLORS) if None in rgb else None
    values: dict[int, str] = {}
    colors: dict[int, str] = {}
    for number, row in enumerate(body, 2):
        try:
            text_of_name = row[name]
            if value is not None:
                _add(values, _number(row[value], file), text_of_name, str(file))
            if None not in rgb:
                _add(colors, _color([row[i] for i in rgb if i is not None], file), text_of_name, str(file))
            elif color is not None:
                _add(colors, _color(row[color], file), text_of_name, str(file))
            elif value is None:
                _add(values, number - 2, text_of_name, str(file))
        except IndexError:
            raise BadInput(f"{file}: row {number} has {len(row)} cells, fewer than the header") from None
    positional = value is None and not colors
    return LabelMap(str(file), values if positional else dict(sorted(values.items())), colors, positional)


def _rows(text: str, file: Path) -> list[list[str]]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        return list(csv.reader(text.splitlines(), delimiter=delimiter))
    except csv.Error as error:
        raise BadInput(f"{file} is not a valid CSV file: {error}") from error


def _lines(text: str, file: Path) -> LabelMap:
    """CVAT's `NAME:R,G,B:parts:actions`, `R G B NAME`, `VALUE NAME`, or one name per line; `#` starts a comment."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    values: dict[int, str] = {}
    colors: dict[int, str] = {}
    if lines and all(_CVAT_LINE.match(line) for line in lines):
        for name, *rgb in _groups(_CVAT_LINE, lines):
            _add(colors, _color(rgb, file), name, str(file))
    elif lines and all(_RGB_LINE.match(line) for line in lines):
        for *rgb, name in _groups(_RGB_LINE, lines):
            _add(colors, _color(rgb, file), name, str(file))
    elif lines and all(_VALUE_LINE.match(line) for line in lines):
        for value, name in _groups(_VALUE_LINE, lines):
            _add(values, _number(value, file), name, str(file))
        values = dict(sorted(values.items()))
    else:
        return _listed(lines, file)
    return LabelMap(str(file), values, colors)


def _groups(pattern: re.Pattern[str], lines: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for line in lines:
        match = pattern.match(line)
        assert match is not None
        yield match.groups()


def _add(known: dict[int, str], key: int, name: str, source: str) -> None:
    if not name:
        raise BadInput(f"{source} has an empty name")
    if known.setdefault(key, name) != name:
        raise BadInput(f"{source} has two names for one value or colour: '{known[key]}' and '{name}'")


def _number(text: str, file: Path) -> int:
    if not _is_value(text):
        raise BadInput(f"{file} has the mask value {text!r}: expected a whole number from 0 to 65535")
    return int(text)


def _is_value(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().isascii() and value.strip().isdecimal() and int(value[:20]) <= 65_535
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65_535


def _color(value: Any, file: Path) -> int:
    """0xRRGGBB of three numbers from 0 to 255, of #RRGGBB or #RRGGBBAA, or of a text such as `(0, 128, 255)`."""
    if isinstance(value, str):
        if re.fullmatch(r"#?[0-9a-fA-F]{6}([0-9a-fA-F]{2})?", value.strip()):
            return int(value.strip().lstrip("#")[:6], 16)
        value = re.findall(r"\d+", value)
    if isinstance(value, list) and len(value) in (3, 4):
        numbers = [int(number) if _is_value(number) else -1 for number in value[:3]]
        if all(0 <= number <= 255 for number in numbers):
            return numbers[0] << 16 | numbers[1] << 8 | numbers[2]
    raise BadInput(f"{file} has the colour {_short(value)}: expected three numbers R G B from 0 to 255, or #RRGGBB")


def _plain(name: Any) -> str:
    return re.sub(r"[\s_-]+", "", str(name)).casefold()


def _short(value: Any) -> str:
    return _BRIEF.repr(value)
