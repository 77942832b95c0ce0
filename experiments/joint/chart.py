"""Draws a comparison of joint and single-task networks: differences with intervals, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BUDGETS = {"epochs": "equal epochs", "macs": "equal cost of training"}
SHOWN_COSTS = {
    "parameters": lambda side: side["params"],
    "multiply-adds": lambda side: side["macs"],
    "latency": lambda side: side["latency_ms"]["p50"],
    "memory": lambda side: side["memory_mb"],
}


def draw(rows: Sequence[Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Draw differences in points with their 95% intervals, and below them the costs of one image.

    Args:
        rows: of all backbones, budgets and heads, as in `joint.json`.
        costs: `single` and `joint` costs of each backbone.
        file: image to write. There is one column for each backbone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heads = list(dict.fromkeys((row["head"], row["metric"]) for row in rows))
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    heights = (0.5 * len(heads) + 0.9, 0.25 * len(SHOWN_COSTS) + 0.6)
    figure = Figure(figsize=(3.4 * len(costs) + 1.6, sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(costs), squeeze=False, sharey="row", sharex="row", height_ratios=heights)
    for column, (backbone, sides) in enumerate(costs.items()):
        above, below = axes[:, column]
        for number, budget in enumerate(budgets):
            own = {row["head"]: row for row in rows if (row["backbone"], row["budget"]) == (backbone, budget)}
            found = [100 * own[head]["difference"]["value"] for head, _ in heads]
            ends = [[100 * own[head]["difference"][end] for head, _ in heads] for end in ("low", "high")]
            errors = [[abs(end - value) for end, value in zip(side, found, strict=True)] for side in ends]
            places = [place + 0.24 * (number - (len(budgets) - 1) / 2) for place in range(len(heads))]
            label = BUDGETS[budget]
            above.errorbar(found, places, xerr=errors, fmt="o", ms=5, capsize=3, color=f"C{number}", label=label)
        above.axvline(0, color="black", lw=0.8)
        above.set_yticks(range(len(heads)), [f"{head}, {metric}" for head, metric in heads])
        above.set_ylim(len(heads) - 0.5, -0.5)
        above.set_xlabel("joint minus single network, points")
        above.set_title(backbone, fontsize=10)
        shares = [100 * of(sides["joint"]) / of(sides["single"]) for of in SHOWN_COSTS.values()]
        bars = below.barh(range(len(shares)), shares, height=0.6, color="0.6")
        below.bar_label(bars, fmt="{:.0f}%", fontsize=8, padding=2)
        below.axvline(100, color="black", lw=0.8)
        below.set_yticks(range(len(shares)), list(SHOWN_COSTS))
        below.set_ylim(len(shares) - 0.5, -0.5)
        below.set_xlabel("cost of one image, % of the single networks")
        for axis in (above, below):
            axis.grid(axis="x", alpha=0.25)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.savefig(file, dpi=130)
