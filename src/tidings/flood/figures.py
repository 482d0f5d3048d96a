"""What a flood comes to: latencies from the intended time of arrival, rates, lag, and whether all is well.

Percentiles are exact: the nearest rank of all values, not the bounds of buckets. All latencies begin when the event was
due to arrive, so what a stall keeps waiting counts in full (see `load.py`).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from itertools import compress
from operator import sub

import msgspec

from tidings.flood.growth import SAMPLES, Growth, growth, lags, recovery
from tidings.flood.ledger import Account, Marks, account
from tidings.flood.load import Load
from tidings.flood.notes import DERIVED, FOREIGN
from tidings.flood.publisher import NEVER
from tidings.flood.run import Evidence

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
WINDOWS = 60
"""Points of a chart."""
PUBLISH, WHOLE = "publish", "end to end"
"""The stages that are no handlers: until publish is acknowledged, and until nothing more comes of an arrival."""


class Latency(msgspec.Struct, frozen=True):
    """Percentiles in seconds."""

    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happens to events: how many, how long after their arrival, how far behind."""

    name: str
    events: int
    latency: Latency | None
    lag_most: int
    grows: Growth | None


class HandlerStage(Stage, frozen=True, kw_only=True):
    """A handler. `left` still waits, `lost` is neither settled nor waiting.

    `dead` are dead letters by the error that they died of; `causes` are what the first of each says.
    """

    retried: int
    dead: Mapping[str, int]
    causes: Mapping[str, str]
    left: int
    lost: int
    twice: int


class Curve(msgspec.Struct, frozen=True):
    """A stage over time: a point for each window; latencies are of what arrived in it, None where nothing did."""

    rate: Sequence[float]
    lag: Sequence[int]
    p50: Sequence[float | None]
    p99: Sequence[float | None]
    spectrum: Sequence[tuple[float, float]]
    """Latency by percentile: share, seconds."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All that is told. Rates in events a second, times in seconds."""

    apps: Sequence[str]
    arrival: str
    workers: int
    seconds: float
    events: int
    offered: float
    done: float
    done_most: float
    drained: float
    late: float
    refused: Mapping[str, int]
    deaths: Mapping[str, int]
    lost: int
    dead: int
    left: int
    publish: Stage
    whole: Stage
    handlers: Sequence[HandlerStage]
    grows: Growth | None
    grows_first: str | None
    recovered: float | None
    window: float
    arriving: Sequence[float]
    curves: Mapping[str, Curve]

    @property
    def fine(self) -> bool:
        """Whether everything was kept and settled."""
        return not (self.lost or self.dead or self.left or self.refused or self.deaths)


class Timeline(msgspec.Struct):
    """When what a stage has to do came, and was done, both in order; of each done, its arrival and how long since."""

    came: array[float]
    done: array[float]
    numbers: array[int]
    latencies: array[float]


def figures(evidence: Evidence, load: Load, *, apps: Sequence[str], workers: int) -> Figures:
    """Work out what a flood of `apps` by `workers` processes came to."""
    publisher = evidence.publisher
    times, seconds = publisher.times, max(load.seconds, publisher.times[-1])
    end = max(seconds, _end(evidence))
    window = end / WINDOWS
    accounts = _accounts(evidence)
    lines = timelines(evidence, {number for each in accounts.values() for number in each.arrivals})
    stages = {name: _stage(name, line, times, seconds) for name, line in lines.items()}
    curves = {name: _curve(line, times, window) for name, line in lines.items()}
    handlers = [_handler(evidence, stages[name], accounts[name]) for name in evidence.groups]
    first = _first(stages)
    whole = lines[WHOLE]
    return Figures(
        apps=apps, arrival=load.arrival, workers=workers, seconds=load.seconds, events=len(times),
        offered=round(len(times) / seconds, 1), done=round(len(whole.done) / max([*whole.done[-1:], seconds]), 1),
        done_most=max(curves[WHOLE].rate), drained=round(max(end - times[-1], 0.0), 3),
        late=_rank(sorted(publisher.late), 0.99), refused=dict(publisher.refused), deaths=dict(evidence.deaths),
        lost=sum(stage.lost for stage in handlers), dead=sum(sum(stage.dead.values()) for stage in handlers),
        left=sum(stage.left for stage in handlers), publish=stages[PUBLISH], whole=stages[WHOLE], handlers=handlers,
        grows=None if first is None else stages[first].grows, grows_first=first,
        recovered=None if load.spike is None else recovery(whole.came, whole.done, load.spike),
        window=round(window, 6), arriving=_rates(times, window), curves=curves,
    )  # fmt: skip


def _first(stages: Mapping[str, Stage]) -> str | None:
    """The stage whose lag grows first; the whole only where none of its parts does."""
    growing = {name: stage.grows.second for name, stage in stages.items() if stage.grows}
    parts = [name for name in growing if name != WHOLE]
    return min(parts or growing, key=growing.__getitem__, default=None)


def _end(evidence: Evidence) -> float:
    """When the last thing was done."""
    began = evidence.publisher.began
    settled = [max(marks.at) - began for marks in evidence.ledger.settled.values() if marks.at]
    return max([*settled, *(at for at in evidence.publisher.acked if at != NEVER)], default=0.0)


def _accounts(evidence: Evidence) -> dict[str, Account]:
    publisher = evidence.publisher
    acked = [at != NEVER for at in publisher.acked]
    return {
        group: account(evidence.ledger, group, topics=topics, acked=acked, topic=publisher.topic)
        for group, topics in evidence.groups.items()
    }


def timelines(evidence: Evidence, missing: Collection[int]) -> dict[str, Timeline]:
    """Of the whole, without the arrivals that are `missing` somewhere; of publishing; of each handler."""
    publisher, ledger = evidence.publisher, evidence.ledger
    times, acked = publisher.times, publisher.acked
    kept = array("I", (number for number, at in enumerate(acked) if at != NEVER))
    lines = {PUBLISH: _line(times, array("d", (acked[number] for number in kept)), kept, times)}
    last = array("d", acked)
    for group, topics in evidence.groups.items():
        came = array("d", (acked[number] for number in kept if publisher.topic(number) in topics))
        for topic in topics:
            came += _own(ledger.told.get(topic, Marks()), publisher.began)[0]
        done, numbers = _own(ledger.settled.get(group, Marks()), publisher.began)
        lines[group] = _line(array("d", sorted(came)), done, numbers, times)
        for number, at in zip(numbers, done, strict=True):
            if at > last[number] or last[number] == NEVER:
                last[number] = at
    whole = array("I", (number for number in kept if number not in missing))
    return {WHOLE: _line(times, array("d", (last[number] for number in whole)), whole, times), **lines}


def _own(marks: Marks, began: float) -> tuple[array[float], array[int]]:
    """What is of this flood: when, since it began, and the numbers of the arrivals that led to it."""
    own = [number != FOREIGN for number in marks.numbers]
    times = array("d", (at - began for at in compress(marks.at, own)))
    return times, array("I", (number & ~DERIVED for number in compress(marks.numbers, own)))


def _line(came: array[float], done: array[float], numbers: array[int], times: array[float]) -> Timeline:
    latencies = array("d", map(sub, done, map(times.__getitem__, numbers)))
    return Timeline(came, array("d", sorted(done)), numbers, latencies)


def _stage(name: str, line: Timeline, times: array[float], seconds: float) -> Stage:
    samples = [seconds * index / SAMPLES for index in range(SAMPLES + 1)]
    lagging = lags(line.came, line.done, samples)
    return Stage(
        name=name, events=len(line.done), latency=latency(line.latencies), lag_most=max(lagging),
        grows=growth(times, lagging, seconds),
    )  # fmt: skip


def _handler(evidence: Evidence, stage: Stage, found: Account) -> HandlerStage:
    name = stage.name
    left, letters = evidence.left.get(name, 0), evidence.letters[name]
    return HandlerStage(
        **msgspec.structs.asdict(stage), retried=evidence.ledger.back[name],
        dead=dict(letters.count), causes=letters.cause, left=left, lost=max(found.missing - left, 0),
        twice=found.twice,
    )  # fmt: skip


def _curve(line: Timeline, times: array[float], window: float) -> Curve:
    waited: list[list[float]] = [[] for _ in range(WINDOWS)]
    for number, seconds in zip(line.numbers, line.latencies, strict=True):
        waited[min(int(times[number] / window), WINDOWS - 1)].append(seconds)
    for each in waited:
        each.sort()
    ends = [(index + 1) * window for index in range(WINDOWS)]
    return Curve(
        rate=_rates(line.done, window), lag=lags(line.came, line.done, ends),
        p50=[_rank(each, 0.5) if each else None for each in waited],
        p99=[_rank(each, 0.99) if each else None for each in waited],
        spectrum=spectrum(sorted(line.latencies)),
    )  # fmt: skip


def _rates(done: Sequence[float], window: float) -> list[float]:
    counts = [bisect_left(done, (index + 1) * window) for index in range(WINDOWS)]
    counts[-1] = len(done)
    return [round((after - before) / window, 1) for before, after in zip([0, *counts], counts, strict=False)]


def latency(seconds: Sequence[float]) -> Latency | None:
    """The percentiles; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Latency(**{name: _rank(ordered, share) for name, share in SHARES.items()}, max=round(ordered[-1], 6))


def _rank(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: the least value that this share of all does not exceed."""
    return round(ordered[max(math.ceil(share * len(ordered) - 1e-9), 1) - 1], 6) if ordered else 0.0


def spectrum(ordered: Sequence[float]) -> list[tuple[float, float]]:
    """Latency by percentile, five points for each halving of what is beyond, as HdrHistogram prints it."""
    points: list[tuple[float, float]] = []
    step = 0
    while ordered and (beyond := 2 ** (-step / 5)) * len(ordered) >= 1:
        points.append((round(1 - beyond, 9), _rank(ordered, 1 - beyond)))
        step += 1
    return points
