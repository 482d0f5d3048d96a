"""Line charts as SVG: no script, no font and no address from elsewhere; legible on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import accumulate
from typing import NamedTuple

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 44, 34
ROW, LETTER, SAMPLE = 16, 6.8, 34
"""Of the legend: the height of a row, the width of a letter (about), the width of all but the name."""
TICKS = 8
"""Steps of an axis, at most."""
COLOURS = 8
"""How many lines can be told apart; beyond that colours come again, dashed."""
STYLE = """\
.chart { font: 12px system-ui, sans-serif; --ink: #1f2328; --faint: #d1d9e0; --paper: #ffffff;
  --c0: #0969da; --c1: #bc4c00; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; --c5: #9a6700; --c6: #57606a;
  --c7: #0a7ea4; }
@media (prefers-color-scheme: dark) { .chart { --ink: #e6edf3; --faint: #3d444d; --paper: #0d1117;
  --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff; --c4: #f778ba; --c5: #d29922; --c6: #9198a1;
  --c7: #39c5cf; } }
.chart text { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
.chart .title { font-weight: 600; font-size: 14px; }
.chart .paper { fill: var(--paper); } .chart .grid { stroke: var(--faint); stroke-width: 1; }
.chart .line { fill: none; stroke-width: 1.75; stroke-linejoin: round; } .chart .mark { stroke-dasharray: 4 3; }
.chart .again { stroke-dasharray: 6 4; }
"""


class Line(NamedTuple):
    """A line and its name; where a point is None the line is broken."""

    name: str
    points: Sequence[tuple[float, float | None]]


class Chart(NamedTuple):
    """What is drawn. `log`: the vertical axis is logarithmic. `marks` are vertical lines with what they mean.

    `labels` name places of the horizontal axis; by default its own numbers do.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    log: bool = False
    marks: Sequence[tuple[float, str]] = ()
    labels: Sequence[tuple[float, str]] = ()
    across: str = "seconds"


class Axis(NamedTuple):
    """Values from `low` to `high` onto a stretch from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value is."""
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        value = math.log10(max(value, self.low)) if self.log else value
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Round values."""
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = rounded((self.high - self.low) / TICKS)
        return [index * step for index in range(math.ceil(self.low / step), int(self.high / step + 1e-9) + 1)]


def rounded(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not below."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def svg(charts: Sequence[Chart]) -> str:
    """All charts, one below the other, as one SVG document."""
    heights = [HEIGHT + ROW * (len(legend(chart.lines)) - 1) for chart in charts]
    height = sum(heights)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" {size} style="max-width:100%;height:auto">',
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
    ]
    for top, chart in zip(accumulate(heights, initial=0), charts, strict=False):
        parts += [f'<g transform="translate(0 {top})">', *draw(chart), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def draw(chart: Chart) -> Iterator[str]:
    """One chart, in a place of its own."""
    yield text(LEFT, 16, f"{chart.title}, {chart.unit}" if chart.unit else chart.title, "title")
    names = legend(chart.lines)
    for row, entries in enumerate(names):
        yield from _entries(entries, 34 + ROW * row)
    yield f'<g transform="translate(0 {ROW * (len(names) - 1)})">'
    yield from _plot(chart)
    yield "</g>"


def _plot(chart: Chart) -> Iterator[str]:
    across, up = _axes(chart)
    for tick in up.ticks():
        y = up.at(tick)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield text(LEFT - 8, y + 4, number(tick), anchor="end")
    for value, label in chart.labels or [(tick, number(tick)) for tick in across.ticks()]:
        yield text(across.at(value), HEIGHT - BOTTOM + 16, label, anchor="middle")
    yield text(WIDTH - RIGHT, HEIGHT - 4, chart.across, anchor="end")
    for index, line in enumerate(chart.lines):
        yield from _line(line, index, across, up)
    for value, label in chart.marks:
        x = across.at(value)
        yield f'<line class="mark" stroke="var(--ink)" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        end = x > WIDTH * 0.6
        yield text(x - 6 if end else x + 6, TOP + 12, label, anchor="end" if end else "start")


def _axes(chart: Chart) -> tuple[Axis, Axis]:
    xs = [x for line in chart.lines for x, _ in line.points] or [0.0]
    ys = [y for line in chart.lines for _, y in line.points if y is not None] or [0.0]
    across = Axis(min(0.0, *xs), max(*xs, 1e-6), LEFT, WIDTH - RIGHT)
    bottom, top = HEIGHT - BOTTOM, TOP
    if not chart.log:
        return across, Axis(0.0, max(*ys, 1e-6) * 1.05, bottom, top)
    least = min((y for y in ys if y > 0), default=1e-3)
    low, high = 10.0 ** math.floor(math.log10(least)), 10.0 ** math.ceil(math.log10(max(*ys, least * 1.01)))
    return across, Axis(low, max(high, low * 10), bottom, top, True)


def _line(line: Line, index: int, across: Axis, up: Axis) -> Iterator[str]:
    path, pen = [], "M"
    for x, y in line.points:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{across.at(x):.1f} {up.at(y):.1f}")
        pen = "L"
    yield (
        f'<path class="line{_again(index)}" stroke="var(--c{index % COLOURS})" d="{" ".join(path)}">'
        f"<title>{escape(line.name)}</title></path>"
    )


def legend(lines: Sequence[Line]) -> list[list[tuple[int, float, str]]]:
    """Rows of the numbers of lines, where each begins, and its name."""
    rows: list[list[tuple[int, float, str]]] = [[]]
    x = float(LEFT)
    for index, line in enumerate(lines):
        width = SAMPLE + LETTER * len(line.name)
        if rows[-1] and x + width > WIDTH:
            rows.append([])
            x = LEFT
        rows[-1].append((index, x, line.name))
        x += width
    return rows


def _entries(entries: Sequence[tuple[int, float, str]], y: float) -> Iterator[str]:
    for index, x, name in entries:
        yield f'<path class="line{_again(index)}" stroke="var(--c{index % COLOURS})" d="M{x:.0f} {y - 4}h14"/>'
        yield text(x + 18, y, name)


def _again(index: int) -> str:
    return " again" if index >= COLOURS else ""


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Words at a place."""
    cls = f' class="{kind}"' if kind else ""
    return f'<text{cls} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def number(value: float) -> str:
    """A number on an axis: 2,000, 0.05, 20k."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:g}"
