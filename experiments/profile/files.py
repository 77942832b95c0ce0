"""The files that a measurement of costs writes."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.console import out


def write_costs(rows: Sequence[Any], folder: Path, name: str, draw: Callable[[Path], None]) -> None:
    """Write NAME.csv with a line for each row, and NAME.png, and print their paths.

    Args:
        rows: dataclasses of one kind, at least one.
        folder: is created.
        name: of the files.
        draw: writes the picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table_file, picture = folder / f"{name}.csv", folder / f"{name}.png"
    with table_file.open("w", newline="") as file:
        table = csv.DictWriter(file, list(asdict(rows[0])), lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(row) for row in rows)
    draw(picture)
    out.print(f"{table_file} and {picture}")
