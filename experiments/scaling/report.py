"""Reports a scaling study: CSV files, `scaling.png`, and the tables that are printed."""

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
from engine.console import out
from engine.record import write_text
from experiments.costs.coefficients import DIMENSIONS, Coefficients, fits
from experiments.report.formatting import billions, difference_text, millions, percent
from experiments.statistics import Difference

ALL = "all three"  # group of the networks that are scaled in all dimensions
NAN = float("nan")


@dataclass(frozen=True)
class NetworkResult:
    """A network of the study and the result of its training.

    Attributes:
        group: "grid", "base", one of DIMENSIONS, or "all three".
        key: name of the network in the study's folder.
        depth, width, resolution: factors on the base's. In the grid they are the coefficients, otherwise the factors of
            the network as it is built, with whole numbers of blocks, channels and pixels.
        image_size: pixels.
        macs, params: of the whole model that is trained, for one image.
        score: a fraction; NaN before the training and where it failed.
        error: why it failed.
        folder: the run folder within the study's folder.
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
    """Write rows as CSV. NaN becomes an empty field."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)
    write_text(file, text.getvalue())


def draw_scaling(results: Sequence[NetworkResult], metric: str, title: str, file: Path) -> None:
    """Draw score against multiply-adds, with one line for each dimension and one for all three."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for name, mark in zip((*DIMENSIONS, ALL), "^s.o", strict=True):
        line = [r for r in results if r.group in ("base", name)]
        # "all three" may coincide with a single dimension: a thick line below the others keeps both visible
        width = {"lw": 3.5, "ms": 9, "zorder": 1} if name == ALL else {"lw": 1.2}
        style: dict[str, Any] = {"marker": mark, "label": name, **width}
        panel.plot([r.macs / 1e9 for r in line], [100 * r.score for r in line], **style)
    panel.set_xscale("log", base=2)
    panel.set_xticks([r.macs / 1e9 for r in results if r.group in ("base", ALL)])
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panel.set_xlabel("multiply-adds per image, billions")
    panel.set_ylabel(f"{metric}, percent")
    panel.set_title(title, loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    panel.legend(frameon=False, fontsize=9)
    figure.savefig(file, dpi=120)


def networks_table(
    results: Iterable[NetworkResult],
    title: str,
    metric: str,
    base_macs: float,
    differences: Mapping[str, Difference] | None = None,
) -> Table:
    """Return a table of networks.

    Args:
        results: the networks.
        title: of the table.
        metric: name of the score.
        base_macs: multiply-adds of the base's model.
        differences: key of a network -> how much better scaling all three is at the same cost.
    """
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("network", no_wrap=True)
    last = [f"{ALL} against it"] if differences else []
    for heading in ("depth", "width", "resolution", "px", "MACs, G", "times", f"{metric}, %", *last):
        table.add_column(heading, justify="right")
    for result in results:
        texts = [f"{result.depth:.3g}", f"{result.width:.3g}", f"{result.resolution:.3g}", str(result.image_size)]
        texts += [f"{result.macs / 1e9:.3g}", f"{result.macs / base_macs:.2f}"]
        texts.append("failed" if result.error else percent(result.score))
        if differences and result.key in differences:
            texts.append(f"{difference_text(differences[result.key])}, {differences[result.key].verdict}")
        table.add_row(result.key, *texts)
    return table


def print_family(chosen: Coefficients, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the family, and how similar it is to the published one.

    Args:
        chosen: coefficients of the family.
        rows: the family's members as `family.csv` stores them.
    """
    has_published = "published" in rows[0]
    title = "depth {depth:.4g}^phi, width {width:.4g}^phi, resolution {resolution:.4g}^phi".format(**asdict(chosen))
    table = Table(box=SIMPLE_HEAD, title=f"{title}; as ImageNet classifiers", title_justify="left", pad_edge=False)
    width = max(len(row["backbone"]) for row in rows)  # names are for copying, so they are never cut
    table.add_column("backbone", no_wrap=True, min_width=width)
    for heading in ("px", "params", "MACs", *(("nearest published",) if has_published else ())):
        table.add_column(heading)
    for row in rows:
        texts = [str(row["image_size"]), millions(row["params"]), billions(row["macs"])]
        if has_published:
            sizes = f"{row['published_image_size']} px", millions(row["published_params"])
            texts.append(", ".join((f"{row['published']}: {sizes[0]}", sizes[1], billions(row["published_macs"]))))
        table.add_row(row["backbone"].replace("[", r"\["), *texts)
    out.print(table)
    if has_published:
        nearest = fits(VARIANTS["efficientnet_b0"], chosen)
        params, macs = (100 * max(abs(getattr(fit, name) - 1) for fit in nearest) for name in ("params", "macs"))
        out.print(
            f"With 224 px at phi 0, B0 to B7 are fitted best by phi {', '.join(f'{fit.phi:g}' for fit in nearest)}; "
            f"parameters differ by up to {params:.0f}% and multiply-adds by up to {macs:.0f}%\n"
        )
