"""Durations are counted in the same buckets, one by one or together."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tidings.meter import SECONDS, Histogram


@given(some.lists(some.floats(0.0, 100.0) | some.sampled_from(SECONDS)))
def test_many_are_counted_as_one_by_one(durations: list[float]) -> None:
    together, singly = Histogram(), Histogram()
    together.observe_all(durations)
    for each in durations:
        singly.observe(each)
    assert together.counts == singly.counts
    assert together.sum == pytest.approx(singly.sum)


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram()
    histogram.observe_all([0.001, 0.0010001, 61.0])
    assert [histogram.counts[SECONDS.index(0.001) + n] for n in (0, 1)] == [1, 1]
    assert histogram.counts[-1] == 1
