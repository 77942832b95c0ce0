"""Draws the pictures of an audit: class balance, box sizes, and images with a problem."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from backbones.errors import BadInput
from data.findings import Finding
from data.images import read_image
from engine.text import plot_labels
from experiments.audit.anchors import box_sizes
from experiments.audit.labels import UNITS
from experiments.audit.splits import Opened

COLORS = ("#2468b0", "#c4501b", "#5b8c3a", "#8c5ba8")
CLASSES = 40  # largest number in a picture: the most frequent ones
SHEET = 4, 3  # columns and rows of example images


def draw(
    opened: Opened,
    balance: dict[str, dict[str, int]],
    image_size: int,
    findings: Sequence[Finding],
    folder: Path,
) -> list[Path]:
    """Write all pictures of a full audit to `folder`. `balance`: counts by class of each split. Returns the files."""
    written = []
    if any(sum(counts.values()) for counts in balance.values()):
        written.append(_balance(balance, UNITS[opened.kind], folder / "balance.png"))
    sizes = {split.name: box_sizes(split, image_size) for split in opened.splits if opened.kind == "boxes"}
    if any(len(split_sizes) for split_sizes in sizes.values()):
        written.append(_sizes(sizes, image_size, folder / "box_sizes.png"))
    number = 0
    for finding in findings:
        if finding.files and finding.severity != "note":
            number += 1
            written.append(_sheet(finding, folder / f"finding-{number}.png"))
    return written


def _balance(balance: dict[str, dict[str, int]], unit: str, file: Path) -> Path:
    """Draw the shares of the classes in each split, the most frequent first."""
    totals: dict[str, int] = {}
    for counts in balance.values():
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    names = sorted(totals, key=lambda name: -totals[name])[:CLASSES]
    figure, panel = _figure(8, 1.2 + 0.13 * len(names) * (len(balance) + 1))
    height = 0.8 / len(balance)
    for number, (split, counts) in enumerate(balance.items()):
        total = max(1, sum(counts.values()))
        shares = [100 * counts.get(name, 0) / total for name in names]
        places = np.arange(len(names)) + number * height
        label = f"{split}, {total:,} {unit}"
        panel.barh(places, shares, height, color=COLORS[number % len(COLORS)], label=label)
    shown, families = plot_labels(names)
    panel.set_yticks(np.arange(len(names)) + 0.4 - height / 2, shown, fontsize=8, fontfamily=families)
    panel.invert_yaxis()
    panel.set_xlabel(f"share of the {unit}, percent" + (f" (most frequent {CLASSES})" if len(totals) > CLASSES else ""))
    panel.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)
    return file


def _sizes(sizes: dict[str, np.ndarray], image_size: int, file: Path) -> Path:
    """Draw the square roots of the boxes' areas at the input size, with the strides of the feature maps."""
    figure, panel = _figure(8, 3)
    bins = np.geomspace(2, image_size, 50)
    for number, (split, pixels) in enumerate(sizes.items()):
        if len(pixels):
            weights = np.full(len(pixels), 100 / len(pixels))
            color = COLORS[number % len(COLORS)]
            panel.hist(
                np.sqrt(pixels.prod(1)), bins.tolist(), weights=weights, histtype="step", color=color, label=split
            )
    for stride in (8, 16, 32, 64, 128):
        panel.axvline(stride, color="#999999", lw=0.7, ls=":")
        panel.text(stride, panel.get_ylim()[1], f" stride {stride}", fontsize=7, va="top", color="#666666")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(2))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.set_xlabel(f"square root of the box's area, px at {image_size} px input")
    panel.set_ylabel("boxes, percent")
    panel.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)
    return file


def _sheet(finding: Finding, file: Path) -> Path:
    columns, rows = SHEET
    shown = finding.files[: columns * rows]
    figure = Figure(figsize=(10, 2.4 * -(-len(shown) // columns) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(-(-len(shown) // columns), columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, path in zip(panels, shown, strict=False):
        try:
            panel.imshow(read_image(path))
        except BadInput as error:
            panel.text(0.5, 0.5, str(error)[:60], ha="center", fontsize=6, wrap=True)
        (title,), families = plot_labels(["/".join(path.parts[-2:])])
        panel.set_title(title, fontsize=7, fontfamily=families)
    (title,), families = plot_labels([finding.what])
    figure.suptitle(title, fontsize=10, fontfamily=families)
    figure.savefig(file, dpi=110)
    return file


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    panel.spines[["top", "right"]].set_visible(False)
    return figure, panel
