"""Draws the scores of the corpus against costs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.corpus.groups import Group

COLUMNS = 3
MARKERS = "osD^vPX*<>phd"  # shape of each network's points, in turn
MAJORITY: dict[str, Any] = {"lw": 1, "ls": "--", "color": "gray"}
# Costs to draw: column of the corpus, label of the axis, and its unit. Neither depends on other jobs of the machine.
COSTS = (("macs", "multiply-adds, billions", 1e9), ("peak_memory_mb", "memory of the training, GiB", 1024))


def draw(groups: Sequence[Group], file: Path, cost: str, label: str, unit: float) -> bool:
    """Write an SVG with a panel for each task and data set, a line for each protocol, a marker for each network.

    Args:
        groups: what to draw.
        file: the file to write.
        cost: column of the horizontal axis, see `COSTS`.
        label: of this axis.
        unit: of this axis, in units of the column.

    Returns False, and writes nothing, if no group has two networks.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if len(group.entries) > 1:
            panels.setdefault((group.first.task, group.first.set), []).append(group)
    if not panels:
        return False
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    protocols = dict.fromkeys(group.first.protocol for found in panels.values() for group in found)
    backbones = dict.fromkeys(name for found in panels.values() for group in found for name in group.scores)
    colors = {name: f"C{i}" for i, name in enumerate(protocols)}
    markers = dict(zip(backbones, itertools.cycle(MARKERS), strict=False))
    for axis, ((task, name), found) in zip(axes, panels.items(), strict=False):
        for group in found:
            entries = sorted(group.entries, key=lambda entry: entry.cost(cost))
            costs, means = [entry.cost(cost) / unit for entry in entries], [100 * entry.mean for entry in entries]
            spreads, color = [100 * (entry.spread or 0) for entry in entries], colors[group.first.protocol]
            axis.errorbar(costs, means, yerr=spreads, lw=1, capsize=2, color=color)
            for entry, x, y in zip(entries, costs, means, strict=True):
                axis.plot(x, y, markers[entry.network], ms=5, color=color)
        for majority in {group.first.majority_score for group in found} - {0.0}:
            axis.axhline(100 * majority, **MAJORITY)
        axis.set_title(f"{name}: {task}", fontsize=9)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylabel(f"{found[0].first.metric}, %")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[: len(panels)][-COLUMNS:]:
        axis.set_xlabel(label)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles = [Line2D([], [], lw=2, color=color, label=name) for name, color in colors.items()]
    handles += [Line2D([], [], ls="", marker=marker, color="gray", label=name) for name, marker in markers.items()]
    if any(group.first.majority_score for found in panels.values() for group in found):
        handles.append(Line2D([], [], **MAJORITY, label="always the most frequent class"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "corpus"}):
        figure.savefig(file, metadata={"Date": None})
    return True
