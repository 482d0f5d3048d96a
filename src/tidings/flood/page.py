"""The report as one file: a page with charts and tables, or the charts alone as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from tidings.flood.chart import Chart, Line, svg
from tidings.flood.figures import PUBLISH, WHOLE, Curve, Figures
from tidings.flood.words import HEAD, rows, summary, verdict

STYLE = """\
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2rem auto; padding: 0 1rem;
  color: #1f2328; background: #ffffff; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #d1d9e0; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.bad { color: #cf222e; font-weight: 600; } .good { color: #1a7f37; font-weight: 600; }
@media (prefers-color-scheme: dark) { body { color: #e6edf3; background: #0d1117; }
  th, td { border-color: #3d444d; } .bad { color: #ff7b72; } .good { color: #3fb950; } }
"""
SHARES = ((0, "0"), (1, "90 %"), (2, "99 %"), (3, "99.9 %"), (4, "99.99 %"), (5, "99.999 %"))


def page(figures: Figures) -> str:
    """The report as HTML."""
    title = f"Flood of {', '.join(figures.apps)}: {figures.arrival}"
    return "\n".join([
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="{"good" if figures.fine else "bad"}">{escape(verdict(figures))}</p>',
        *(f"<p>{escape(sentence)}</p>" for sentence in summary(figures)),
        svg(charts(figures)),
        *_table(figures),
        "</body></html>",
        "",
    ])  # fmt: skip


def _table(figures: Figures) -> Iterator[str]:
    yield "<h2>From the intended time of arrival</h2>"
    yield f'<div class="wide"><table><thead><tr>{_cells("th", HEAD)}</tr></thead><tbody>'
    for row in rows(figures):
        yield f"<tr>{_cells('td', row)}</tr>"
    yield "</tbody></table></div>"


def _cells(tag: str, words: Sequence[str]) -> str:
    return "".join(f"<{tag}>{escape(word)}</{tag}>" for word in words)


def charts(figures: Figures) -> list[Chart]:
    """Rates, lag, latency over time, latency by percentile."""
    curves, whole = figures.curves, figures.curves[WHOLE]
    stages = {name: curve for name, curve in curves.items() if name != WHOLE}
    marks = [] if figures.grows is None else [(figures.grows.second, f"lag grows: {figures.grows_first}")]
    quick = [Line("p50", _over(figures, whole.p50)), Line("p99", _over(figures, whole.p99))]
    return [
        Chart("Arriving and done", "events/s", [Line("arriving", _over(figures, figures.arriving)),
              Line("acknowledged", _over(figures, curves[PUBLISH].rate)),
              Line("done", _over(figures, whole.rate))], marks=marks),
        Chart("Lag", "events", [Line(name, _over(figures, curve.lag)) for name, curve in stages.items()], marks=marks),
        Chart("Latency end to end, by time of arrival", "seconds", quick, log=True, marks=marks),
        Chart("p99 by time of arrival", "seconds",
              [Line(name, _over(figures, curve.p99)) for name, curve in stages.items()], log=True),
        Chart("Latency by percentile", "seconds", [Line(name, _spectrum(curve)) for name, curve in stages.items()],
              log=True, labels=_labels(stages), across=""),
    ]  # fmt: skip


def _over(figures: Figures, values: Sequence[float | None]) -> list[tuple[float, float | None]]:
    return [((index + 0.5) * figures.window, value) for index, value in enumerate(values)]


def _spectrum(curve: Curve) -> list[tuple[float, float | None]]:
    return [(-math.log10(1 - share), seconds) for share, seconds in curve.spectrum]


def _labels(stages: dict[str, Curve]) -> list[tuple[float, str]]:
    most = max((-math.log10(1 - share) for curve in stages.values() for share, _ in curve.spectrum), default=0.0)
    return [(at, label) for at, label in SHARES if at <= most]
