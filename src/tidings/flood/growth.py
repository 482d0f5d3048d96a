"""Where lag begins to grow: the load that is too much, found in the figures of one run.

Lag is sampled two hundred times while events arrive, and a straight line is fitted (least squares) to each window of a
tenth of the run. A window grows where its line rises by more than a twentieth of the rate that arrives in it: a queue
that is served as fast as it fills goes up and down, but its lines are flat. Growth is a run of such windows over which
lag rises by a fifth of a second's arrivals or more. It has to be longer than a window: a single stall, such as a
checkpoint, tilts every window that it is in, but no more. Of several runs the one is meant in which lag rises most.

It begins when lag is for the last time no higher than it was in the window before. Noise hides the very beginning, so
the rate at that time is a little too high on a ramp; the rate at the beginning of the first window, which is a little
too low, is what certainly was dealt with. The truth is between them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

SAMPLES, WINDOW = 200, 20
"""Over the time in which events arrive."""
LONG = 25
"""So many windows one after another are a run: more than hold any one sample."""
FLAT = 0.05
"""The share of the rate by which the line of a window may rise and still be flat."""
HICCUP = 0.2
"""Seconds: less than what arrives in so long is no growth."""
FEWEST = 20
"""Events: nor is less than that."""


class Growth(msgspec.Struct, frozen=True):
    """Lag grew from `second` on, when `rate` events a second arrived.

    Before, `held` a second were dealt with without that, None where it grew from the start; while it grew, `done`.
    """

    second: float
    rate: float
    held: float | None
    done: float


class Run(NamedTuple):
    """Windows that grow, one after another, as indices of their first samples."""

    first: int
    last: int


def lags(arrived: Sequence[float], done: Sequence[float], at: Sequence[float]) -> list[int]:
    """How many had arrived and were not done at these times; both are sorted."""
    return [max(bisect_right(arrived, second) - bisect_right(done, second), 0) for second in at]


def recovery(arrived: Sequence[float], done: Sequence[float], spike: tuple[float, float]) -> float | None:
    """How long after the end of a spike lag is as low again as it was at most before it; None where it never is."""
    begin, end = spike
    last = max(done[-1] if done else end, end)
    before = lags(arrived, done, [begin * index / SAMPLES for index in range(SAMPLES + 1)])
    after = [end + (last - end) * index / SAMPLES for index in range(SAMPLES + 1)]
    calm = max(before)
    return next(
        (round(at - end, 3) for at, lag in zip(after, lags(arrived, done, after), strict=True) if lag <= calm), None
    )


def growth(arrivals: array[float], lagging: Sequence[int], seconds: float) -> Growth | None:
    """Where lag, sampled evenly over `seconds`, begins to grow; None where it does not."""
    step = seconds / (len(lagging) - 1)
    runs = [run for run in _runs(arrivals, lagging, step) if run.last - run.first >= LONG]
    run = max(runs, key=lambda run: _rise(lagging, run), default=None)
    if run is None:
        return None
    rise = _rise(lagging, run)
    if rise < max(HICCUP * _rate(arrivals, run.first * step, (run.last + WINDOW) * step), FEWEST):
        return None
    top = max(range(run.first + 1, run.last + WINDOW + 1), key=lagging.__getitem__)
    begin = _onset(lagging, run, top)
    grown = (lagging[top] - lagging[begin]) / ((top - begin) * step)
    return Growth(
        second=round(begin * step, 3),
        rate=_rate(arrivals, begin * step, (begin + WINDOW / 5) * step),
        held=_rate(arrivals, (run.first - WINDOW / 4) * step, (run.first + WINDOW / 4) * step) if run.first else None,
        done=round(max(_rate(arrivals, begin * step, top * step) - grown, 0.0), 1),
    )


def _onset(lagging: Sequence[int], run: Run, top: int) -> int:
    """The last sample before the top that is no higher than the window before the run; the first of all without one."""
    if run.first == 0:
        return 0
    calm = max(lagging[max(run.first - WINDOW, 0) : run.first + 1])
    return max((index for index in range(run.first, top) if lagging[index] <= calm), default=run.first)


def _runs(arrivals: array[float], lagging: Sequence[int], step: float) -> list[Run]:
    runs: list[Run] = []
    for first in range(len(lagging) - WINDOW):
        begin, end = first * step, (first + WINDOW) * step
        if slope(lagging[first : first + WINDOW + 1]) / step <= FLAT * _rate(arrivals, begin, end):
            continue
        if runs and runs[-1].last == first - 1:
            runs[-1] = Run(runs[-1].first, first)
        else:
            runs.append(Run(first, first))
    return runs


def _rise(lagging: Sequence[int], run: Run) -> int:
    """From the least in the first window to the most in the last."""
    most = max(lagging[run.last : run.last + WINDOW + 1])
    return most - min(lagging[run.first : run.first + WINDOW + 1])


def _rate(arrivals: array[float], begin: float, end: float) -> float:
    begin = max(begin, 0.0)
    count = bisect_left(arrivals, end) - bisect_left(arrivals, begin)
    return round(count / (end - begin), 1) if end > begin else 0.0


def slope(values: Sequence[float]) -> float:
    """That of the least-squares line through values one apart."""
    middle = (len(values) - 1) / 2
    mean = sum(values) / len(values)
    spread = sum((index - middle) ** 2 for index in range(len(values)))
    return sum((index - middle) * (value - mean) for index, value in enumerate(values)) / spread
