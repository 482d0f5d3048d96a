"""The measures of each server, and what they are to reach."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Any

import msgspec

from bench.brokers import by_hand, latency, ours
from bench.brokers.client import BATCH
from bench.measure import Also, Goal, Measure
from bench.reading import Reading, Task

LEAST = 400


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A server by its name in tidings.dev: how many events, and which share of its plain client is wanted."""

    server: str
    events: int
    consume: float
    publish: float


KINDS = {
    "kafka": Kind(server="Kafka", events=100_000, consume=0.5, publish=0.4),
    "nats": Kind(server="Nats", events=30_000, consume=0.8, publish=0.7),
    "rabbitmq": Kind(server="RabbitMQ", events=20_000, consume=0.8, publish=0.7),
    "valkey": Kind(server="Valkey", events=50_000, consume=0.6, publish=0.6),
    "postgres": Kind(server="Postgres", events=50_000, consume=0.6, publish=0.5),
}


def _fresh() -> str:
    """A topic that nobody has used."""
    return f"bench_{uuid.uuid4().hex[:12]}"


def _many(events: int, scale: float) -> int:
    """A whole number of batches."""
    return int(events * scale) // BATCH * BATCH or LEAST


def _work(run: Any, events: int, task: Task) -> Reading:
    """One side of consume and publish, or of latency."""
    reading: Reading = asyncio.run(run(task.server, _fresh(), _many(events, task.scale)))
    return reading


def _working(name: str, kind: Kind) -> Measure:
    consume, publish = Goal("ratio", "least", kind.consume), Goal("ratio", "least", kind.publish)
    each = "events/s of CPU"
    return Measure(
        what="a backlog of typed events, an `async def` handler that does nothing, acknowledged after it",
        goal=consume,
        ours=partial(_work, ours.work, kind.events),
        raw=partial(_work, partial(by_hand.work, name), kind.events),
        also=(
            Also(f"{name}.consume_cpu", "consume_cpu", each, "the same by the CPU of the process", consume),
            Also(f"{name}.publish", "publish", "events/s", "1,000 at a time, confirmed", publish, "publish_us"),
            Also(f"{name}.publish_cpu", "publish_cpu", each, "the same by the CPU of the process", publish),
        ),
    )


def _late(name: str) -> Measure:
    events = int(latency.RATE * latency.SECONDS)
    what = "from publish in one process to the handler in another, 500 events/s offered: the median"
    return Measure(
        unit="ms p50",
        what=what,
        goal=Goal("ratio", "most", 1.5),
        ours=partial(_work, partial(latency.by_us, name), events),
        raw=partial(_work, partial(latency.by_raw, name), events),
        also=(
            Also(f"{name}.latency_p99", "p99", "ms p99", "the same: the 99th of 100", Goal("ratio", "most", 2.0)),
        ),
    )  # fmt: skip


MEASURES = {
    measure: made
    for name, kind in KINDS.items()
    for measure, made in {f"{name}.consume": _working(name, kind), f"{name}.latency": _late(name)}.items()
}
