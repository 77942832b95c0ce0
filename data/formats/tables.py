"""Text tables as spreadsheets and scripts write them: CSV, TSV and lists with spaces, with or without a header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import BadInput
from data.formats.listing import is_image_name
from data.formats.records import read_text, start_of

SUFFIXES = (".csv", ".tsv", ".txt")
DELIMITERS = ("\t", ";", ",", "|")  # in the order of preference: a list separated by tabs may have commas in its cells
_SAMPLE = 50  # rows that decide on the delimiter


@dataclass(frozen=True)
class Table:
    """Rows of a text file.

    Attributes:
        file: for messages.
        header: names of the columns as written; empty if the first row has values.
        rows: cells of each row, without surrounding spaces. All rows have the same number of cells.
    """

    file: Path
    header: tuple[str, ...]
    rows: list[list[str]]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.header) or (len(self.rows[0]) if self.rows else 0)

    def find(self, names: Iterable[str]) -> list[int]:
        """Columns with one of the names, in the order of `names`. Case, spaces and punctuation do not matter."""
        plain = [plain_name(name) for name in self.header]
        return [i for name in names for i, other in enumerate(plain) if other == name]

    def column(self, index: int) -> list[str]:
        """The cells of a column."""
        return [row[index] for row in self.rows]

    def title(self, index: int) -> str:
        """The column's name, or its number from 1, for messages."""
        return f"'{self.header[index]}'" if self.header else str(index + 1)


def plain_name(name: str) -> str:
    """A column's name in lower case, without spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name).lower()


def read_table(file: Path, known: Sequence[str], head: bool = False) -> Table:
    """The table in a text file in UTF-8 or UTF-16, with or without a byte order mark.

    Args:
        file: its columns are separated by commas, semicolons or tabs; in a `.txt` also by the first space of each line.
        known: plain names of columns. The first row is the header if one of its cells has such a name, or if none of
            its cells names an image while those of other rows do.
        head: whether to read only the beginning, without checks.

    Raises BadInput if the file cannot be read, is not text, or has rows of different lengths.
    """
    lines = re.split(r"\r\n|\r|\n", start_of(file) if head else read_text(file))
    if head and len(lines) > 2:
        del lines[-1]  # it may be cut off
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise BadInput(f"{file} is empty")
    delimiter = _delimiter(lines, file)
    try:
        rows = _split_at_space(lines) if delimiter is None else list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise BadInput(f"{file} is not a valid table: {error}") from error
    rows = [[cell.strip() for cell in row] for row in rows]
    if all(len(row) > 1 and not row[-1] for row in rows):  # a delimiter at the end of each line
        rows = [row[:-1] for row in rows]
    has_header = _has_header(rows, set(known))
    header, rows = (tuple(rows[0]), rows[1:]) if has_header else ((), rows)
    width = len(header) or len(rows[0])
    for number, row in enumerate(rows, 2 if has_header else 1):
        if len(row) != width and not head:  # a damaged table is recognised, so that reading it reports the row
            raise BadInput(
                f"{file}: row {number} has {len(row)} cells, but the first row has {width}: {' | '.join(row)[:80]}"
            )
    return Table(file, header, [row for row in rows if len(row) == width])


def _delimiter(lines: list[str], file: Path) -> str | None:
    """The delimiter that all of the first rows have equally often; None for lines with spaces."""
    sample = lines[:_SAMPLE]
    if any("\0" in line for line in sample):
        raise BadInput(f"{file} is not a text table: it has zero bytes")
    usable = []
    for delimiter in DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(sample, delimiter=delimiter)]
        except csv.Error:
            continue
        if widths[0] > 1:
            usable.append((len(set(widths)) == 1, delimiter))
    if usable:
        return next((delimiter for constant, delimiter in usable if constant), usable[0][1])
    spaced = file.suffix.lower() == ".txt" and all(len(line.split(maxsplit=1)) == 2 for line in sample)
    return None if spaced else ","


def _split_at_space(lines: list[str]) -> list[list[str]]:
    """Two cells for each line. The first ends where an image's suffix does, so that file names may have spaces."""
    files = [re.match(r"\s*(.+?\.\w+)\s+(.+)", line) for line in lines]
    return [
        list(found.groups()) if found and is_image_name(found[1]) else line.split(maxsplit=1)
        for found, line in zip(files, lines, strict=True)
    ]


def _has_header(rows: list[list[str]], known: set[str]) -> bool:
    if any(plain_name(cell) in known for cell in rows[0]) and not any(is_image_name(cell) for cell in rows[0]):
        return True
    return len(rows) > 1 and not any(map(is_image_name, rows[0])) and any(map(is_image_name, rows[1]))
