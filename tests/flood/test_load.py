"""When events arrive."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import pytest

from tidings.flood.load import Load


def between(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


def test_constant_is_even() -> None:
    times = Load(rate=50, seconds=2).times()
    assert len(times) == 100
    assert all(later - earlier == pytest.approx(0.02) for earlier, later in pairwise(times))


def test_a_ramp_offers_ever_more() -> None:
    times = Load(arrival="ramp", first=100, rate=300, seconds=10).times()
    assert len(times) == 2000
    assert [between(times, second, second + 1) for second in (0, 4.5, 9)] == pytest.approx([110, 200, 290], abs=2)


def test_a_ramp_that_does_not_rise_is_constant() -> None:
    assert Load(arrival="ramp", first=50, rate=50, seconds=2).times() == Load(rate=50, seconds=2).times()


def test_a_ramp_can_fall() -> None:
    times = Load(arrival="ramp", first=300, rate=100, seconds=10).times()
    assert list(times) == sorted(times)
    assert between(times, 0, 1) > between(times, 9, 10) > 0


def test_a_spike_is_the_middle_fifth() -> None:
    times = Load(arrival="spike", rate=100, peak=700, seconds=10).times()
    assert [between(times, second, second + 1) for second in (0, 4, 5, 6, 9)] == [100, 700, 700, 100, 100]


def test_poisson_has_its_rate_and_repeats_itself() -> None:
    load = Load(arrival="poisson", rate=1000, seconds=20)
    times = load.times()
    assert len(times) == pytest.approx(20_000, rel=0.05)
    assert times == load.times()
    assert times != Load(arrival="poisson", rate=1000, seconds=20, seed=2).times()
    alone = sum(1 for earlier, later in pairwise(times) if later - earlier > 0.001)
    assert alone / len(times) == pytest.approx(0.368, abs=0.02), "gaps are exponential: 1/e of them are over the mean"


def test_a_replay_keeps_the_gaps() -> None:
    recorded = [1000.0, 1002.0, 1002.5, 1010.0]
    assert list(Load(arrival="replay", seconds=60).times(recorded)) == [0.0, 2.0, 2.5, 10.0]
    assert list(Load(arrival="replay", speed=10, seconds=60).times(recorded)) == [0.0, 0.2, 0.25, 1.0]
    assert list(Load(arrival="replay", seconds=5).times(recorded)) == [0.0, 2.0, 2.5]
