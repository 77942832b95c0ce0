"""Read text, JSON and XML files of labels, and check the values in them. Every error names the file and the record."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from backbones.errors import BadInput
from data.images import MAX_PIXELS

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
START = 4096  # bytes of a file that are read to recognise its format


@dataclass(frozen=True)
class Record:
    """A record of a file, such as "line 7", whose values are checked. All methods raise BadInput naming both."""

    file: Path
    name: str

    def fail(self, problem: str) -> NoReturn:
        """Raise BadInput: the file, the record and its problem."""
        raise BadInput(f"{self.file}: {self.name} {problem}")

    def number(self, value: Any, key: str) -> float:
        """A number, which may be a text. NaN and infinity are numbers."""
        try:
            return float("no number" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError):
            self.fail(f"has {key} {shown(value)}, not a number")

    def numbers(self, values: Any, key: str, count: int | None = None) -> list[float]:
        """A list of numbers."""
        if not isinstance(values, list | tuple) or count not in (None, len(values)):
            self.fail(f"has {key} {shown(values)}, not {'a list of' if count is None else count} numbers")
        return [self.number(value, key) for value in values]

    def points(self, values: Any, key: str) -> list[tuple[float, float]]:
        """A list of pairs x, y."""
        if not isinstance(values, list) or not values:
            self.fail(f"has {key} {shown(values)}, not a list of points")
        pairs = [self.numbers(value, key, 2) for value in values]
        return [(x, y) for x, y in pairs]

    def label(self, value: Any, key: str) -> str:
        """A class name. A number becomes its text."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        name = str(value).strip() if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
        if not name:
            self.fail(f"has {key} {shown(value)}, not a class name")
        return name

    def size(self, height: Any, width: Any) -> tuple[int, int]:
        """Height and width in pixels; 0, 0 if one of them is missing or 0."""
        if any(value in (None, "", 0, "0") for value in (height, width)):
            return 0, 0
        sides = self.number(height, "height"), self.number(width, "width")
        if not all(side >= 1 and side.is_integer() for side in sides) or sides[0] * sides[1] > MAX_PIXELS:
            self.fail(f"has an impossible width or height: {shown(width)} x {shown(height)}")
        return int(sides[0]), int(sides[1])

    def mapping(self, value: Any) -> dict[str, Any]:
        """A JSON object."""
        if not isinstance(value, dict):
            self.fail(f"is {shown(value)}, not an object")
        return value

    def sequence(self, value: Any, key: str) -> list[Any]:
        """A JSON list; an empty one if it is missing."""
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail(f"has {key} {shown(value)}, not a list")
        return value


def shown(value: Any) -> str:
    """A value for a message: short, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of more than 4300 digits
        text = f"a long {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_bytes(file: Path) -> bytes:
    """The content of a file. Raises BadInput if it cannot be read."""
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark. The mark is no part of the text."""
    content = read_bytes(file)
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not a text in UTF-8 (byte {error.start}): save it as UTF-8") from error


def read_json(file: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON file. `hook`: called for each object, as in `json.loads`."""
    try:
        return json.loads(read_bytes(file), object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not valid JSON: {error}") from error


def start_of(file: Path) -> str:
    """The first characters of a text file, without a byte order mark; "" if it cannot be read."""
    try:
        with file.open("rb") as content:
            start = content.read(START)
    except (OSError, ValueError):
        return ""
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
    return start.decode(encoding, "ignore")


def read_xml(file: Path) -> Element:
    """The root element of an XML file. Nothing outside of the file is read, and no entities are expanded.

    Raises BadInput if it is malformed or defines entities, which can make a small file need any amount of memory.
    """
    content = read_bytes(file)
    declared = _DECLARED.match(content)
    marked = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    encoding = marked or (declared[1].decode() if declared else "utf-8")
    builder = TreeBuilder()
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(content.decode(encoding).encode(), True)
        return builder.close()
    except (expat.ExpatError, UnicodeError, LookupError, AssertionError, ValueError) as error:
        raise BadInput(f"{file} is not valid XML: {error}") from error


def _refuse_entity(name: str, *_: Any) -> NoReturn:
    raise ValueError(f"it defines the entity '{name}': refused, since entities can expand without limit")


def text_of(element: Element, path: str) -> str | None:
    """The stripped text of the first element at a path below another; None without such an element or without text."""
    found = element.find(path)
    return found.text.strip() or None if found is not None and found.text else None
