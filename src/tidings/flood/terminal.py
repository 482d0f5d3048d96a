"""A flood on a terminal: charts of block characters, and the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tidings.cli.output import plain
from tidings.flood.chart import number
from tidings.flood.figures import WHOLE, Figures
from tidings.flood.words import HEAD, duration, rows, summary, verdict

LEVELS = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
"""Block characters, each an eighth higher than the one before."""
HEIGHT = 4
"""Lines of a chart."""


def tell(figures: Figures, console: Console) -> None:
    """Print charts, table, summary and verdict."""
    whole = figures.curves[WHOLE]
    lag = [max(values) for values in zip(*(curve.lag for curve in figures.curves.values()), strict=True)]
    for title, values, style in (
        ("arriving, events/s", figures.arriving, "cyan"),
        ("done, events/s", whole.rate, "green"),
        ("lag at most, events", lag, "yellow"),
        ("p99 end to end", [seconds or 0.0 for seconds in whole.p99], "magenta"),
    ):
        most = max(values)
        told = duration(most) if title.startswith("p99") else f"{number(most)}"
        console.print(Text.assemble((title, "bold"), f"   at most {told}"))
        for line in blocks(values):
            console.print(Text(line, style))
    console.print(Text(f"0 s{f'{figures.window * len(lag):.0f} s':>{len(lag) - 3}}", "dim"))
    console.print(_table(figures))
    for sentence in summary(figures):
        console.print(Text(plain(sentence)), soft_wrap=True)
    console.print(Text(plain(verdict(figures)), "bold green" if figures.fine else "bold red"), soft_wrap=True)


def blocks(values: Sequence[float], height: int = HEIGHT) -> Iterator[str]:
    """A chart of one column a value, `height` lines of eight steps each."""
    most = max(max(values, default=0.0), 1e-12)
    steps = [round(value / most * height * 8) for value in values]
    for line in reversed(range(height)):
        yield "".join(LEVELS[min(max(step - line * 8, 0), 8)] for step in steps)


def _table(figures: Figures) -> Table:
    """Without the columns in which nothing is said."""
    cells = list(rows(figures))
    said = [index for index in range(len(HEAD)) if any(row[index].strip("-") for row in cells)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index in said:
        table.add_column(HEAD[index], justify="right" if index else "left", style="" if index else "bold")
    for row in cells:
        table.add_row(*(Text(plain(row[index])) for index in said))
    return table
