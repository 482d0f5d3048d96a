"""Where lag begins to grow, found in queues of which it is known."""

from __future__ import annotations

import random
from array import array
from itertools import pairwise

import pytest

from tidings.flood.growth import SAMPLES, Growth, growth, lags, recovery, slope
from tidings.flood.load import Load


def served(times: array[float], capacity: float, *, stall: tuple[float, float] = (-1.0, 0.0)) -> list[float]:
    """When a server of this capacity is done with each, which takes what is there thirty times a second."""
    draw, free, done = random.Random(7).random, 0.0, []
    for at in times:
        free = max(free, at) + 1 / capacity
        if stall[0] < free < stall[1]:
            free = stall[1]
        tick = (1 + draw()) / 30
        done.append((free // tick + 1) * tick)
    return sorted(done)


def found(load: Load, capacity: float, *, stall: tuple[float, float] = (-1.0, 0.0)) -> Growth | None:
    times = load.times()
    samples = [load.seconds * index / SAMPLES for index in range(SAMPLES + 1)]
    return growth(times, lags(times, served(times, capacity, stall=stall), samples), load.seconds)


@pytest.mark.parametrize("capacity", [300, 600, 900])
@pytest.mark.parametrize("seconds", [10, 30])
def test_on_a_ramp_it_is_the_capacity(capacity: int, seconds: int) -> None:
    grown = found(Load(arrival="ramp", rate=1200, seconds=seconds), capacity)
    assert grown is not None
    assert grown.held is not None
    assert 0.75 * capacity < grown.held < 1.02 * capacity
    assert 0.98 * capacity < grown.rate < 1.2 * capacity
    assert grown.done == pytest.approx(capacity, rel=0.05)
    assert grown.second == pytest.approx(seconds * capacity / 1200, rel=0.15)


@pytest.mark.parametrize("arrival", ["constant", "poisson", "ramp"])
def test_within_the_capacity_it_is_nowhere(arrival: str) -> None:
    assert found(Load(arrival=arrival, rate=500, seconds=30), 700) is None


def test_too_much_from_the_start_grows_from_the_start() -> None:
    grown = found(Load(rate=500, seconds=30), 400)
    assert grown == Growth(0.0, 500.0, None, pytest.approx(400, rel=0.02))


def test_a_spike_is_where_it_grows() -> None:
    grown = found(Load(arrival="spike", rate=200, peak=1000, seconds=30), 400)
    assert grown is not None
    assert grown.second == pytest.approx(12, abs=0.5)
    assert grown.held == pytest.approx(200, rel=0.05)
    assert grown.rate > 400
    assert grown.done == pytest.approx(400, rel=0.05)


@pytest.mark.parametrize("stall", [0.15, 0.5, 1.5])
@pytest.mark.parametrize("capacity", [600, 5000])
def test_a_stall_is_none(stall: float, capacity: int) -> None:
    assert found(Load(rate=500, seconds=30), capacity, stall=(10.0, 10.0 + stall)) is None


def test_after_a_spike_it_takes_as_long_as_it_takes() -> None:
    load = Load(arrival="spike", rate=200, peak=1000, seconds=30)
    times, spike = load.times(), load.spike
    assert spike == (12, 18)
    too_much = (1000 - 400) * 6
    assert recovery(times, served(times, 400), spike) == pytest.approx(12 + (too_much - 12 * 200) / 400, rel=0.05)
    assert recovery(times, served(times, 5000), spike) == pytest.approx(0, abs=0.1)
    assert recovery(times, [], spike) is None


def test_lag_is_what_has_come_and_is_not_done() -> None:
    assert lags([1, 2, 3], [2.5, 2.6, 9], [0, 1, 2, 2.55, 3, 9]) == [0, 1, 2, 1, 1, 0]


def test_the_slope_is_that_of_the_line() -> None:
    values = [3.0 + 2.0 * x for x in range(9)]
    assert slope(values) == pytest.approx(2.0)
    assert all(b > a for a, b in pairwise(values))
