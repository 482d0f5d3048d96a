"""The clock: ids are unique whatever the time of day does, and sort by it."""

import pytest

from tidings.clock import Clock

DAY = 86_400.0


class Set(Clock):
    """A clock that the test sets."""

    time = 1_800_000_000.0

    def now(self) -> float:
        return self.time


@pytest.mark.parametrize("step", [0.0, -DAY, DAY])
def test_ids_are_unique_where_the_clock_stands_still_or_comes_to_the_same_moment_again(step: float) -> None:
    clock, made = Set(), list[str]()
    for _ in range(2):
        made += [clock.id() for _ in range(10_000)]
        clock.time += step
        made += [clock.id() for _ in range(10_000)]
        clock.time -= step

    assert len(set(made)) == len(made)


def test_ids_sort_by_their_time() -> None:
    clock = Set()
    earlier = clock.id()
    clock.time += 0.001

    assert earlier < clock.id()
