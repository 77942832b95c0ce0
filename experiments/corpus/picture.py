"""Draws the scores of the corpus against multiply-adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.corpus.groups import Group

COLUMNS = 3


def draw(groups: Sequence[Group], file: Path) -> bool:
    """Write an SVG with one panel for each task and data set, and one line for each protocol. False without groups."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    panels: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if len(group.entries) > 1:
            panels.setdefault((group.first.task, group.first.set), []).append(group)
    if not panels:
        return False
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(group.first.protocol for group in groups))}
    for axis, ((task, name), found) in zip(axes, panels.items(), strict=False):
        for group in found:
            entries = sorted(group.entries, key=lambda entry: entry.cost("macs"))
            axis.errorbar(
                [entry.cost("macs") / 1e9 for entry in entries],
                [100 * entry.mean for entry in entries],
                yerr=[100 * (entry.spread or 0) for entry in entries],
                marker="o", ms=4, lw=1, capsize=2, color=colors[group.first.protocol], label=group.first.protocol,
            )  # fmt: skip
        axis.set_title(f"{name}: {task}", fontsize=9)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_ylabel(f"{found[0].first.metric}, %")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[: len(panels)][-COLUMNS:]:
        axis.set_xlabel("multiply-adds, billions")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "corpus"}):
        figure.savefig(file, metadata={"Date": None})
    return True
