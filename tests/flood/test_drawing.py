"""Charts and reports are well formed and need nothing from elsewhere; a flood stays on this machine."""

import re
from xml.etree import ElementTree

import pytest

from tidings.errors import ConfigError
from tidings.flood import place
from tidings.flood.chart import Axis, Chart, Line, number, rounded, svg
from tidings.flood.figures import latency, spectrum
from tidings.flood.terminal import blocks


def charts(*points: tuple[float, float | None], log: bool = False) -> list[Chart]:
    return [Chart("A & B", "events", [Line("<one>", points)], log=log, marks=[(1.0, "here")])]


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "points", [[], [(0.0, 0.0)], [(0.0, None)], [(0.0, 1.0), (1.0, None), (2.0, 5e5)], [(0.5, 1e-9), (1.0, 1e-9)]]
)
def test_any_chart_is_well_formed(points: list[tuple[float, float | None]], log: bool) -> None:
    root = ElementTree.fromstring(svg(charts(*points, log=log)))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A & B, events", "<one>", "here"} <= set(texts)


def test_a_chart_is_drawn_where_its_values_are() -> None:
    drawn = svg(charts((0.0, 0.0), (1.0, None), (2.0, 10.0), (4.0, 10.0)))
    path = re.search(r'class="line" stroke="var\(--c0\)" d="(M64\.0 [^"]*)"', drawn)
    assert path is not None
    assert path[1].count("M") == 2, "the line is broken where there is nothing"
    assert not re.search(r"(?<!xmlns=\")https?://|@import|url\(|<script", drawn)


def test_axes_have_round_ticks() -> None:
    assert Axis(0, 47, 0, 1).ticks() == [0, 10, 20, 30, 40]
    assert Axis(0.001, 1, 0, 1, log=True).ticks() == pytest.approx([0.001, 0.01, 0.1, 1])
    assert [rounded(value) for value in (0.7, 1, 3, 9, 11)] == [1, 1, 5, 10, 20]
    assert [number(value) for value in (0, 0.05, 12, 2000, 20_000)] == ["0", "0.05", "12", "2,000", "20k"]


def test_blocks_are_as_high_as_the_values() -> None:
    assert list(blocks([0, 1, 2, 4], height=2)) == ["   \u2588", " \u2584\u2588\u2588"]
    assert list(blocks([0.0], height=1)) == [" "]


def test_percentiles_are_the_nearest_rank() -> None:
    found = latency([float(value) for value in range(1, 1001)])
    assert found is not None
    assert (found.p50, found.p90, found.p99, found.p99_9, found.max) == (500, 900, 990, 999, 1000)
    only = latency([0.5])
    assert only is not None
    assert (only.p50, only.p99_9, only.max) == (0.5, 0.5, 0.5)
    assert latency([]) is None
    assert spectrum([float(value) for value in range(1, 1025)])[0] == (0.0, 1.0)
    assert spectrum([float(value) for value in range(1, 1025)])[-1] == (pytest.approx(1 - 1 / 1024), 1023.0)


@pytest.mark.parametrize(
    "url",
    ["sqlite:here.db", "sqlite://somewhere/there.db", "nats://127.0.0.1:4222", "kafka://localhost:9092,[::1]:9093", ""],
)
def test_this_machine_may_be_flooded(url: str) -> None:
    place.check(url, remote_is_mine=False)


@pytest.mark.parametrize("url", ["nats://10.0.0.1", "kafka://localhost:9092,example.org", "postgresql://u:p@db/x"])
def test_no_other_machine_is_flooded_unless_it_is_ones_own(url: str) -> None:
    with pytest.raises(ConfigError, match="--remote-is-mine"):
        place.check(url, remote_is_mine=False)
    place.check(url, remote_is_mine=True)


def test_memory_is_of_one_process() -> None:
    with pytest.raises(ConfigError, match="memory of its own"):
        place.check("memory:", remote_is_mine=True)
