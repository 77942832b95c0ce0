"""Learning curves from a run's `metrics.csv`, and the reliability diagram of its `calibration.json`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE = "#2468b0", "#c4501b"


def curves(metrics: Path, monitor: str, picture: Path) -> None:
    """Plot the training loss and the metric `monitor` against the epoch, side by side.

    Args:
        metrics: the run's `metrics.csv`.
        monitor: name of a column with fractions in 0..1, plotted in percent.
        picture: image file to write.
    """
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    loss, score = _series(rows, "loss"), _series(rows, monitor)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for panel, (epochs, values), name, color in (
        (panels[0], loss, "training loss", BLUE),
        (panels[1], score, f"{monitor}, percent", ORANGE),
    ):
        panel.plot(epochs, [v * (100 if color == ORANGE else 1) for v in values], color=color, marker=".", lw=1.5)
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.set_title(name, loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    figure.savefig(picture, dpi=120)


def reliability(calibration: Mapping[str, Any], picture: Path) -> None:
    """Plot the accuracy of each bin of confidence, with the bin's share of the predictions below.

    Args:
        calibration: content of `calibration.json`, see `engine.calibration`.
        picture: image file to write.
    """
    bins = [row for row in calibration["bins"] if row["count"]]
    total = calibration["predictions"]
    figure = Figure(figsize=(3.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    diagram, shares = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 100], [0, 100], color="0.6", lw=1, ls="--")
    diagram.plot(
        [100 * row["confidence"] for row in bins],
        [100 * row["accuracy"] for row in bins],
        color=BLUE,
        marker=".",
        lw=1.5,
    )
    diagram.set_ylabel("correct, percent")
    ece = f"calibration error {100 * calibration['ECE']:.1f} %" if total else "no predictions"
    diagram.set_title(ece, loc="left", fontsize=10)
    edges = [100 * row["from"] for row in bins]
    widths = [100 * (row["to"] - row["from"]) for row in bins]
    shares.bar(edges, [100 * row["count"] / total for row in bins], widths, align="edge", color=ORANGE)
    shares.set_xlabel("confidence, percent")
    shares.set_ylabel("share, %")
    for panel in (diagram, shares):
        panel.set_xlim(0, 100)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    diagram.set_ylim(0, 100)
    figure.savefig(picture, dpi=120)


def _series(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    points = [(int(row["epoch"]) + 1, float(row[name])) for row in rows if row.get(name)]
    return [epoch for epoch, _ in points], [value for _, value in points]
