"""`python -m backbones.pretraining_table FILE`: a table of how all published weights of timm were trained."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import Counter
from pathlib import Path

from backbones.pretraining import GROUPS, pretraining_of

FIELDS = ("name", "group", "method", "data", "license")


def main(arguments: list[str] | None = None) -> int:
    """Write the table and print the number of weights in each group. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m backbones.pretraining_table", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="CSV file to write")
    file = parser.parse_args(arguments).file
    rows = table()
    file.write_text(as_csv(rows))
    counts = Counter(row["group"] for row in rows)
    for group in GROUPS:
        if counts[group]:
            print(f"{counts[group]:5d} {group}")
    print(f"{len(rows):5d} in {file}")
    return 0


def table() -> list[dict[str, str]]:
    """One row of `FIELDS` for each `NAME.TAG` that timm lists as pretrained, sorted by name. Absent values are ""."""
    import timm

    from backbones.names import split_tag
    from backbones.provenance import licence_of

    rows = []
    for name in sorted(timm.list_pretrained()):
        architecture, tag = split_tag(name)
        found = pretraining_of(architecture, tag)
        values = (name, found.group, found.method, found.data, licence_of(architecture, tag or ""))
        rows.append({field: value or "" for field, value in zip(FIELDS, values, strict=True)})
    return rows


def as_csv(rows: list[dict[str, str]]) -> str:
    """The table as CSV. Its first line is a comment with timm's version."""
    import timm

    text = io.StringIO()
    text.write(f"# timm {timm.__version__}\n")
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
