"""Draws differences to a baseline with their intervals, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from experiments.report.svg import LETTER, Linear

WIDTH, ROW, TOP, BOTTOM, RADIUS = 560, 26, 12, 40, 5
MOST_LETTERS = 32  # of a name; longer ones are cut


@dataclass(frozen=True)
class Interval:
    """A row of the chart. Lengths are in percentage points.

    Attributes:
        name: shown at the left.
        value, low, high: the difference and the ends of its interval.
        description: text for the tooltip and for screen readers.
    """

    name: str
    value: float
    low: float
    high: float
    description: str


def forest(rows: Sequence[Interval], label: str) -> str:
    """Draw a row for each difference, and a line at 0. Empty if no difference is defined."""
    rows = [row for row in rows if row.value == row.value and row.low == row.low and row.high == row.high]
    if not rows:
        return ""
    names = [row.name if len(row.name) <= MOST_LETTERS else f"{row.name[: MOST_LETTERS - 3]}..." for row in rows]
    left = 12 + LETTER * 1.15 * max(map(len, names))
    bottom = TOP + ROW * len(rows)
    axis = Linear([0.0, *(end for row in rows for end in (row.low, row.high))], left, WIDTH - 12)
    axis.low = min(axis.low, *(row.low for row in rows), 0.0)
    marks = []
    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        y, text = TOP + ROW * (number + 0.5), escape(row.description)
        marks.append(
            f'<g class="mark" tabindex="0" role="img" aria-label="{text}" data-tip="{text}">'
            f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<line class="spread" x1="{axis(row.low):.1f}" x2="{axis(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="on" cx="{axis(row.value):.1f}" cy="{y:.1f}" r="{RADIUS}"/></g>'
        )
    grid = "".join(
        f'<line class="grid" x1="{axis(tick):.1f}" x2="{axis(tick):.1f}" y1="{TOP}" y2="{bottom}"/>'
        f'<text class="tick" x="{axis(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{_tick(tick)}</text>'
        for tick in axis.ticks()
    )
    middle = (left + WIDTH) / 2
    return (
        f'<svg viewBox="0 0 {WIDTH} {bottom + BOTTOM}" role="group" aria-label="{escape(label)}">{grid}'
        f'<line class="axis" x1="{axis(0.0):.1f}" x2="{axis(0.0):.1f}" y1="{TOP}" y2="{bottom}"/>'
        f'<text class="label" x="{middle:.1f}" y="{bottom + 34}" text-anchor="middle">{escape(label)}</text>'
        f"{''.join(marks)}</svg>"
    )


def _tick(value: float) -> str:
    return f"{value:+g}" if value else "0"
