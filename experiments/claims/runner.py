"""The table of claims: all checks one after the other, on the screen and as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.progress import track
from rich.table import Table

from backbones.errors import BadInput
from engine.commands import err, out
from engine.record import write_text
from experiments.claims import accuracy as reproduce
from experiments.claims import size_and_speed as structure
from experiments.claims.config import ClaimsConfig
from experiments.claims.row import Row


def write_claims(config: ClaimsConfig) -> list[Row]:
    """Check all claims, print the table, write `claims.md` and `claims.csv`; returns the rows.

    A check that cannot be made says why in its row. Raises BadInput where the folder cannot be written.
    """
    folder = Path(config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output {folder} cannot be made: {error.strerror}") from error
    checks: list[Callable[[], Row]] = [
        *(partial(structure.faster, rival, config.passes) for rival in structure.RIVALS),
        *(structure.smaller, structure.b4_for_resnet50, structure.family_sizes),
        *(structure.rivals_on_imagenet, structure.noisy_student, structure.coco),
        *(partial(check, config) for check in (reproduce.detector, reproduce.segmenter)),
        *(partial(reproduce.classifier, row, config) for row in reproduce.published_scores()),
    ]
    rows = [check() for check in track(checks, "checking claims", console=err, transient=True)]
    write_text(folder / "claims.md", markdown(rows, config.passes))
    write_text(folder / "claims.csv", as_csv(rows))
    short = Table("claim", "measured here", "verdict", title="claims", title_justify="left", show_lines=True)
    for row in rows:
        short.add_row(*(text.replace("[", r"\[") for text in (row.claim, row.measured, row.verdict)))
    out.print(short)
    out.print(f"with sources and commands: {folder / 'claims.md'}")
    return rows


def markdown(rows: list[Row], passes: int) -> str:
    """All columns."""
    lines = [
        "# Claims about EfficientNet, and what is measured here",
        "",
        f"Written by `python -m experiments.claims --passes {passes}`. Sizes are counted and times measured on this "
        "machine; accuracies need the data sets' folders.",
        "",
        "| claim | source | how it is checked | measured | verdict |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in vars(row).values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def as_csv(rows: list[Row]) -> str:
    """All columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row.__annotations__)
    writer.writerows(vars(row).values() for row in rows)
    return text.getvalue()
