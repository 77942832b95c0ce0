"""Prints the first page of an audit (what was recognised, splits, classes, sizes) and the findings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.columns import Kind
from data.findings import Finding
from data.formats import TASKS
from data.scan import Headers
from experiments.audit.labels import NO_CLASS, UNITS
from experiments.audit.splits import AuditedSplit, Opened

CLASSES = 24  # classes that are printed: with more, the most frequent and the rarest
RAREST = 6
EXAMPLES = 4  # examples printed for each finding; audit.json has more
SPLIT_COLUMNS = ("split", "images", "boxes", "per image", "images without", "crowd", "difficult",
                 "smallest", "median", "largest")  # fmt: skip
BAR = 20  # characters of the bar of the most frequent class
STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold blue"}


def print_first_page(
    opened: Opened, balance: dict[str, dict[str, int]], headers: dict[str, Headers], out: Console
) -> None:
    """Print what was recognised, and tables of the splits and the classes."""
    out.print(f"[bold]{escape(str(opened.root))}[/bold]")
    out.print(f"{TASKS[opened.kind]}, format {opened.form.name}: {escape(opened.why)}")
    for form, why in opened.others:
        out.print(f"also {TASKS[form.kind]}, format {form.name}: {escape(why)} (pass --kind {form.kind})")
    for split in opened.splits:
        if split.changes:
            flags = " ".join(f"--data.{name} true" for name in split.changes)
            out.print(f"{escape(split.name)} is shown as {flags} reads it; without that, training refuses it")
    out.print(_splits(opened, headers))
    if any(balance.values()):
        out.print(_classes(opened.kind, balance))


def print_findings(findings: Sequence[Finding], out: Console, most: int | None = None) -> None:
    """Print findings with some examples of each; only the first `most` of them."""
    for finding in findings[:most]:
        out.print(f"[{STYLES[finding.severity]}]{finding.severity}[/]: ", end="")
        out.print(" ".join(_sentence(text) for text in (finding.what, finding.fix) if text), markup=False)
        if finding.examples:
            more = ", ..." if len(finding.examples) > EXAMPLES else ""
            out.print(f"  {', '.join(finding.examples[:EXAMPLES])}{more}", markup=False, style="dim")
    if most is not None and len(findings) > most:
        out.print(f"{len(findings) - most} more findings are in audit.json")
    if not findings:
        out.print("no problems found")


def _sentence(text: str) -> str:
    """The text with a full stop, unless it ends with one or with a list of lines."""
    return text if text.endswith(".") or "\n" in text else f"{text}."


def size_range(split: AuditedSplit, headers: Headers | None) -> list[tuple[int, int]]:
    """Width and height of the smallest, the median and the largest image by area; empty if no size is known."""
    if hasattr(split.dataset, "sizes"):
        sizes = split.dataset.sizes
    elif headers is not None:
        sizes = headers.sizes
    else:
        return []
    sizes = sizes[sizes.min(1) > 0]
    order = np.argsort(sizes.prod(1), kind="stable")
    return [(int(sizes[i, 1]), int(sizes[i, 0])) for i in order[[0, len(order) // 2, -1]]] if len(order) else []


def _splits(opened: Opened, headers: dict[str, Headers]) -> Table:
    """A row for each split. Columns without any value are left out."""
    rows = []
    for split in opened.splits:
        row = {"split": escape(split.name)}
        if split.columns is None:
            row["images"] = "[red]cannot be read[/red]"
        else:
            row |= {"images": f"{len(split.columns):,}"} | (_box_cells(split) if opened.kind == "boxes" else {})
            sizes = size_range(split, headers.get(split.name))
            names = ("smallest", "median", "largest")
            row |= {name: f"{width} x {height}" for name, (width, height) in zip(names, sizes, strict=False)}
        rows.append(row)
    columns = [name for name in SPLIT_COLUMNS if any(row.get(name) for row in rows)]
    table = Table(*columns, box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*(row.get(name, "") for name in columns))
    return table


def _box_cells(split: AuditedSplit) -> dict[str, str]:
    columns = split.columns if split.dataset is None else split.dataset.columns
    counts = np.bincount(columns.image[~columns.crowd], minlength=len(columns))
    crowd, difficult, empty = int(columns.crowd.sum()), int(columns.difficult.sum()), int((counts == 0).sum())
    return {
        "boxes": f"{int(counts.sum()):,}",
        "per image": f"{counts.mean():.1f}, at most {counts.max()}" if len(counts) else "",
        "images without": f"{empty:,}" if empty else "",
        "crowd": f"{crowd:,}" if crowd else "",
        "difficult": f"{difficult:,}" if difficult else "",
    }


def _classes(kind: Kind, balance: dict[str, dict[str, int]]) -> Table:
    """Counts of each class in each split, the most frequent first."""
    totals: dict[str, int] = {}
    for counts in balance.values():
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    names = sorted((name for name in totals if name != NO_CLASS), key=lambda name: -totals[name])
    table = Table(box=SIMPLE_HEAD)
    table.add_column(f"{len(names)} classes", max_width=40, overflow="ellipsis", no_wrap=True)
    for split in balance:
        table.add_column(f"{escape(split)}: {'% of pixels' if kind == 'masks' else UNITS[kind]}", justify="right")
    table.add_column("")
    shown: list[str | None] = list(names)
    if len(names) > CLASSES:
        shown = [*names[: CLASSES - RAREST], None, *names[-RAREST:]]
    if kind == "masks" and totals.get(NO_CLASS):
        shown.append(NO_CLASS)
    most = max((totals[name] for name in names), default=0)
    for shown_name in shown:
        if shown_name is None:
            table.add_row(f"... {len(names) - CLASSES} more in audit.json", *("" for _ in balance), "")
            continue
        cells = [_count(kind, counts, shown_name) for counts in balance.values()]
        bar = "█" * max(1, round(BAR * totals[shown_name] / max(1, most))) if totals[shown_name] else ""
        table.add_row(escape(shown_name), *cells, bar[:BAR] if shown_name != NO_CLASS else "")
    return table


def _count(kind: Kind, counts: dict[str, int], name: str) -> str:
    count = counts.get(name, 0)
    if not count:
        return "[red]0[/red]" if counts and name != NO_CLASS else ""
    return f"{100 * count / max(1, sum(counts.values())):.2f}" if kind == "masks" else f"{count:,}"
