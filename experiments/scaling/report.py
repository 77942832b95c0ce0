"""What a scaling study tells: its CSV files, `scaling.png`, and the tables that are printed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from backbones.architecture import VARIANTS
from engine.commands import out
from engine.record import write_text
from experiments.costs.coefficients import DIMENSIONS, Coefficients, fits
from experiments.report.formatting import billions, difference_text, millions, percent
from experiments.report.statistics import Difference

ALL = "all three"
NAN = float("nan")


@dataclass(frozen=True)
class Trained:
    """A network of the study and what its training gave.

    Attributes:
        group: "grid", "base", one of DIMENSIONS, or "all three".
        key: of the network in the study's folder.
        depth, width, resolution: factors on the base's; in the grid coefficients, else as built, where all is whole.
        image_size: px.
        macs, params: of the whole model that is trained, one image.
        score: a fraction; NaN where there is none.
        error: why there is none.
        folder: of the training, within the study's.
    """

    group: str
    key: str
    depth: float
    width: float
    resolution: float
    image_size: int
    macs: float
    params: float
    score: float = NAN
    error: str = ""
    folder: str = ""


def write_rows(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Rows as CSV; NaN as nothing."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    write_text(file, text.getvalue())


def draw_growth(compared: Sequence[Trained], metric: str, title: str, file: Path) -> None:
    """Score against multiply-adds, a line for each way to grow."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for name, mark in zip((*DIMENSIONS, ALL), "^s.o", strict=True):
        line = [t for t in compared if t.group in ("base", name)]
        below = {"lw": 3.5, "ms": 9, "zorder": 1} if name == ALL else {"lw": 1.2}  # it may be one of the others
        style: dict[str, Any] = {"marker": mark, "label": name, **below}
        panel.plot([t.macs / 1e9 for t in line], [100 * t.score for t in line], **style)
    panel.set_xscale("log", base=2)
    panel.set_xticks([t.macs / 1e9 for t in compared if t.group in ("base", ALL)])
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panel.set_xlabel("multiply-adds of an image, billions")
    panel.set_ylabel(f"{metric}, percent")
    panel.set_title(title, loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    panel.legend(frameon=False, fontsize=9)
    figure.savefig(file, dpi=120)


def table_of(
    rows: Iterable[Trained],
    title: str,
    metric: str,
    base_macs: float,
    differences: Mapping[str, Difference] | None = None,
) -> Table:
    """A table of networks; `differences` by key, of all three at a network's cost to it."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("network", no_wrap=True)
    last = [f"{ALL} against it"] if differences else []
    for head in ("depth", "width", "resolution", "px", "MACs, G", "times", f"{metric}, %", *last):
        table.add_column(head, justify="right")
    for row in rows:
        cells = [f"{row.depth:.3g}", f"{row.width:.3g}", f"{row.resolution:.3g}", str(row.image_size)]
        cells += [f"{row.macs / 1e9:.3g}", f"{row.macs / base_macs:.2f}"]
        cells.append("failed" if row.error else percent(row.score))
        if differences and row.key in differences:
            cells.append(f"{difference_text(differences[row.key])}, {differences[row.key].verdict}")
        table.add_row(row.key, *cells)
    return table


def print_family(chosen: Coefficients, rows: Sequence[Mapping[str, Any]]) -> None:
    """The family, and how near it comes to the published one."""
    known = "published" in rows[0]
    title = "depth {depth:.4g}^phi, width {width:.4g}^phi, resolution {resolution:.4g}^phi".format(**asdict(chosen))
    table = Table(box=SIMPLE_HEAD, title=f"{title}; as ImageNet classifiers", title_justify="left", pad_edge=False)
    whole = max(len(row["backbone"]) for row in rows)  # it is there to be copied, however narrow the terminal
    table.add_column("backbone", no_wrap=True, min_width=whole)
    for head in ("px", "params", "MACs", *(("nearest published",) if known else ())):
        table.add_column(head)
    for row in rows:
        cells = [str(row["image_size"]), millions(row["params"]), billions(row["macs"])]
        if known:
            sizes = f"{row['published_image_size']} px", millions(row["published_params"])
            cells.append(", ".join((f"{row['published']}: {sizes[0]}", sizes[1], billions(row["published_macs"]))))
        table.add_row(row["backbone"].replace("[", r"\["), *cells)
    out.print(table)
    if known:
        near = fits(VARIANTS["efficientnet_b0"], chosen)
        params, macs = (100 * max(abs(getattr(fit, name) - 1) for fit in near) for name in ("params", "macs"))
        out.print(
            f"With 224 px at phi 0, B0 to B7 are met best at phi {', '.join(f'{fit.phi:g}' for fit in near)}; "
            f"parameters differ by up to {params:.0f}% and multiply-adds by up to {macs:.0f}%\n"
        )
