"""The measures of the embedded broker, and what they are to reach."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench import consume, growth, idle, latency, publish, wal
from bench.measure import Also, Goal, Measure


def _share(limit: float) -> Goal:
    return Goal("ratio", "least", limit)


def _publishing(publishers: int) -> Measure:
    waiting = (
        "one coroutine that awaits each event" if publishers == 1 else f"{publishers:,} coroutines awaiting theirs"
    )
    return Measure(
        what=f"`await app.publish(event)`, {waiting}",
        goal=_share(0.65),
        ours=partial(publish.ours, publishers=publishers),
        raw=partial(publish.by_hand, publishers=publishers),
    )


def _consuming(what: str, handler: Callable[..., Any], limit: float) -> Measure:
    return Measure(
        what=what,
        goal=_share(limit),
        ours=partial(consume.ours, handler=handler),
        raw=partial(consume.by_hand, handler=handler),
        prepare=consume.backlog,
    )


MEASURES = {
    "publish_1": _publishing(1),
    "publish_100": _publishing(100),
    "publish_1000": _publishing(1000),
    "publish_many": Measure(
        what="`await app.publish(*events)`, 1,000 at a time",
        goal=_share(0.65),
        ours=publish.ours_many,
        raw=publish.by_hand_many,
    ),
    "consume_async": _consuming(
        "a backlog of typed events, an `async def` handler that does nothing, on one core", consume.handle_async, 0.60
    ),
    "consume_sync": _consuming("the same with a `def` handler", consume.handle_sync, 0.65),
    "sql_and_publish": Measure(
        what="a handler that updates one row with its own SQL and publishes one event, 100 in a commit, on one core",
        goal=_share(0.60),
        ours=consume.ours_sql,
        raw=consume.by_hand_sql,
    ),
    "end_to_end": Measure(
        unit="ms p50",
        what="from the call of publish in one process to the handler in another, 10,000 events/s offered: the median",
        goal=Goal("ours", "most", 2.5),
        ours=latency.ours,
        raw=latency.by_hand,
        also=(Also("end_to_end_p99", "p99", "ms p99", "the same: the 99th of 100", Goal("ratio", "most", 2.2)),),
    ),
    "idle_cpu": Measure(
        unit="% of a core",
        what="a worker with nothing to do (raw: an event loop that waits for inotify, and no more)",
        goal=Goal("ours", "most", 0.5),
        ours=idle.ours,
        raw=idle.by_hand,
        together=True,
    ),
    "growth": Measure(
        what="tidings appending, 1,000 at a time, to 10,000,000 events (raw: tidings too, to 100,000)",
        goal=_share(0.80),
        ours=partial(growth.at, events=growth.MANY),
        raw=partial(growth.at, events=growth.FEW),
        prepare=growth.fill,
        also=(
            Also("growth_tail", "tail", "events/s", "the same: a worker that reads what is new", _share(0.80)),
            Also("growth_bytes", "bytes", "bytes", "the same: file size an event", Goal("ours", "most", 650)),
        ),
        long=True,
    ),
    "wal": Measure(
        unit="MB",
        what="the largest WAL with three foreign readers that hold 100 ms each, and publishers at full speed",
        goal=Goal("ours", "most", 128),
        ours=wal.ours,
        raw=wal.by_hand,
        long=True,
    ),
}
