"""Runs all checks, prints the table of claims and writes it to files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.progress import track
from rich.table import Table

from backbones.errors import BadInput
from engine.console import err, out
from engine.record import write_text
from experiments.claims import accuracy, size_and_speed
from experiments.claims.config import ClaimsConfig
from experiments.claims.row import ClaimRow


def write_claims(config: ClaimsConfig) -> list[ClaimRow]:
    """Check all claims, print the table, and write `claims.md` and `claims.csv`; returns the rows.

    A row whose check cannot be run states the reason. Raises BadInput if the folder cannot be written.
    """
    folder = Path(config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--output {folder} cannot be made: {error.strerror}") from error
    checks: list[Callable[[], ClaimRow]] = [
        *(partial(size_and_speed.speed_up, claim, config.passes) for claim in size_and_speed.SPEED_UPS),
        *(size_and_speed.b7_and_gpipe_size, size_and_speed.b4_and_resnet50_cost, size_and_speed.family_sizes),
        *(size_and_speed.other_networks_on_imagenet, size_and_speed.noisy_student, size_and_speed.coco),
        *(partial(check, config) for check in (accuracy.detector, accuracy.segmenter)),
        *(partial(accuracy.classifier, row, config) for row in accuracy.published_scores()),
    ]
    rows = [check() for check in track(checks, "checking claims", console=err, transient=True)]
    write_text(folder / "claims.md", markdown(rows, config.passes))
    write_text(folder / "claims.csv", as_csv(rows))
    short = Table("claim", "measured here", "verdict", title="claims", title_justify="left", show_lines=True)
    for row in rows:
        short.add_row(*(text.replace("[", r"\[") for text in (row.claim, row.measured, row.verdict)))
    out.print(short)
    out.print(f"table with sources and commands: {folder / 'claims.md'}")
    return rows


def markdown(rows: list[ClaimRow], passes: int) -> str:
    """Return the table with all columns as Markdown."""
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


def as_csv(rows: list[ClaimRow]) -> str:
    """Return the table with all columns as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(ClaimRow.__annotations__)
    writer.writerows(vars(row).values() for row in rows)
    return text.getvalue()
