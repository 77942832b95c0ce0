"""Draws the charts of the report as inline SVG: scores against costs with their Pareto front, and learning curves.

Every mark can be reached with the keyboard and has a text that describes it. Names stand next to marks, so that nothing
depends on colour. Lengths are in the units of the drawing, which is scaled to the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from experiments.report.pareto import pareto_front

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 14, 40
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "12 4", "4 2 1 2")
SERIES = 7  # number of colours in report.css
RADIUS, LETTER, LINE = 5, 6.4, 12  # of marks; approximate width of a letter and height of a line
# Places of a name next to its mark, the best first: right, left, above, below, and further away.
PLACES = [(8, 4, "start"), (-8, 4, "end"), (0, -10, "middle"), (0, 19, "middle")]
PLACES += [(dx, 4 + dy, to) for dy in (-24, 24, -36, 36) for dx, to in ((8, "start"), (-8, "end"))]

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """A mark of a scatter chart.

    Attributes:
        name: shown next to the mark.
        x: cost.
        y: score in percent.
        spread: standard deviation of the score in percentage points.
        description: text for the tooltip and for screen readers.
    """

    name: str
    x: float
    y: float
    spread: float
    description: str


def scatter(points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Draw scores against a cost on a logarithmic axis. Filled marks and the line are the Pareto front."""
    points = [p for p in points if p.x > 0 and p.y == p.y]
    if not points:
        return ""
    axis_x = Log([p.x for p in points], LEFT, WIDTH - RIGHT)
    axis_y = Linear([v for p in points for v in (p.y - p.spread, p.y + p.spread)], HEIGHT - BOTTOM, TOP)
    front = [points[i] for i in pareto_front([(p.y, p.x) for p in points])]
    path = " ".join(f"{axis_x(p.x):.1f},{axis_y(p.y):.1f}" for p in front)
    marks = [f'<polyline class="front" points="{path}"/>' if len(front) > 1 else ""]
    taken: list[Box] = []
    for p in points:
        x, y = axis_x(p.x), axis_y(p.y)
        taken.append((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS))
    for p in sorted(points, key=lambda p: -p.y):
        x, y = axis_x(p.x), axis_y(p.y)
        place = "on the Pareto front" if p in front else "not on the Pareto front"
        low, high = axis_y(p.y - p.spread), axis_y(p.y + p.spread)
        bar = f'<line class="spread" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>' if p.spread else ""
        circle = f'<circle class="{"on" if p in front else "off"}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"/>'
        marks.append(_mark("mark", f"{p.description}; {place}", bar + circle + _name(p.name, x, y, taken)))
    return _frame(axis_x, axis_y, x_label, y_label, "".join(marks), f"{y_label} against {x_label}")


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], y_label: str) -> str:
    """Draw learning curves, one line per backbone.

    Args:
        lines: name of the backbone -> (epoch, score in percent) of each evaluation.
        y_label: label of the score axis.
    """
    lines = {name: [p for p in line if p[1] == p[1]] for name, line in lines.items()}
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return ""
    axis_x = Linear([0, *(e for line in lines.values() for e, _ in line)], LEFT, WIDTH - 110)
    axis_y = Linear([0, *(s for line in lines.values() for _, s in line)], HEIGHT - BOTTOM, TOP)
    marks = []
    name_y: dict[str, float] = {}  # names stand at the ends of their lines, at least a line of text apart
    lowest = -math.inf
    for name in sorted(lines, key=lambda name: -lines[name][-1][1]):
        lowest = name_y[name] = max(axis_y(lines[name][-1][1]) + 4, lowest + 13)
    for number, (name, line) in enumerate(lines.items()):
        path = " ".join(f"{axis_x(e):.1f},{axis_y(s):.1f}" for e, s in line)
        description = f"{name}: {', '.join(f'{s:.1f} after epoch {e:g}' for e, s in line)}"
        dash = f' stroke-dasharray="{DASHES[number % len(DASHES)]}"' if DASHES[number % len(DASHES)] else ""
        end = axis_x(line[-1][0])
        drawn = f'<polyline points="{path}"{dash}/><circle cx="{end:.1f}" cy="{axis_y(line[-1][1]):.1f}" r="3"/>'
        label = _text(name, end + 6, name_y[name], "start")
        marks.append(_mark(f"line s{number % SERIES}", description, drawn + label))
    return _frame(axis_x, axis_y, "epoch", y_label, "".join(marks), f"{y_label} by epoch")


def reliability(lines: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Draw reliability diagrams, one line per backbone.

    Args:
        lines: name of the backbone -> (mean confidence in percent, correct predictions in percent, number of
            predictions) of each bin.
    """
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return ""
    axis_x, axis_y = Linear([0, 100], LEFT, WIDTH - 110), Linear([0, 100], HEIGHT - BOTTOM, TOP)
    ends = f'x1="{axis_x(0):.1f}" y1="{axis_y(0):.1f}" x2="{axis_x(100):.1f}" y2="{axis_y(100):.1f}"'
    marks = [f'<line class="diagonal" {ends}/>']
    lowest = -math.inf
    for number, (name, line) in sorted(enumerate(lines.items()), key=lambda item: -item[1][1][-1][1]):
        lowest = max(axis_y(line[-1][1]) + 4, lowest + 13)
        path = " ".join(f"{axis_x(x):.1f},{axis_y(y):.1f}" for x, y, _ in line)
        points = ", ".join(f"{y:.0f} % correct at {x:.0f} % ({count} predictions)" for x, y, count in line)
        dash = f' stroke-dasharray="{DASHES[number % len(DASHES)]}"' if DASHES[number % len(DASHES)] else ""
        dots = "".join(f'<circle cx="{axis_x(x):.1f}" cy="{axis_y(y):.1f}" r="2"/>' for x, y, _ in line)
        label = _text(name, axis_x(100) + 6, lowest, "start")
        drawn = f'<polyline points="{path}"{dash}/>{dots}{label}'
        marks.append(_mark(f"line s{number % SERIES}", f"{name}: {points}", drawn))
    return _frame(axis_x, axis_y, "confidence, %", "correct, %", "".join(marks), "reliability diagram")


def _mark(css_class: str, description: str, content: str) -> str:
    """Wrap a mark so that the keyboard can reach it, with its description."""
    text = escape(description)
    return f'<g class="{css_class}" tabindex="0" role="img" aria-label="{text}" data-tip="{text}">{content}</g>'


def _name(name: str, x: float, y: float, taken: list[Box]) -> str:
    """Write a name in the first place next to its mark that overlaps no box in `taken`, and add its box to `taken`."""
    width = LETTER * len(name)
    boxes = []
    for dx, dy, anchor in PLACES:
        left = x + dx - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
        boxes.append((left, y + dy - LINE + 3, left + width, y + dy + 2))
    free = (
        i
        for i, box in enumerate(boxes)
        if box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and not any(_overlap(box, other) for other in taken)
    )
    i = next(free, 0)
    taken.append(boxes[i])
    dx, dy, anchor = PLACES[i]
    return _text(name, x + dx, y + dy, anchor)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


class Linear:
    """A linear axis. Calling it maps a value to a length from `start` to `end`."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        margin = (high - low) * 0.08 or max(abs(high), 1.0) * 0.1
        self.low = 0.0 if low >= 0 and low - margin < 0 else low - margin
        self.high, self.start, self.end = high + margin, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return about five round values."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / 4))
        step *= next(f for f in (1, 2, 5, 10) if (self.high - self.low) / (f * step) <= 6)
        first = math.ceil(self.low / step)
        return [i * step for i in range(first, math.floor(self.high / step) + 1)]


class Log:
    """A logarithmic axis for positive values. Calling it maps a value to a length from `start` to `end`."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = max((high - low) * 0.12, 0.1)
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        return self.start + (math.log10(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return 1, 2 and 5 in each decade, or finer steps where these are fewer than two ticks."""
        for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), tuple(1 + i / 10 for i in range(90))):
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            ticks = [s * 10.0**d for d in decades for s in steps if self.low <= math.log10(s * 10.0**d) <= self.high]
            if len(ticks) >= 2:
                return ticks if len(ticks) <= 7 else ticks[:: math.ceil(len(ticks) / 6)]
        return ticks


def _frame(x: Linear | Log, y: Linear | Log, x_label: str, y_label: str, marks: str, title: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(t) + 3:.1f}" text-anchor="end">{t:g}</text>'
        for t in y.ticks()
    ) + "".join(
        f'<line class="tickmark" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text class="tick" x="{x(t):.1f}" y="{bottom + 15}" text-anchor="middle">{t:g}</text>'
        for t in x.ticks()
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="group" aria-label="{escape(title)}">{grid}'
        f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="label" x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="label" transform="translate(11 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>{marks}</svg>"
    )
