"""The measures of each server, and what they are to reach."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Any

import msgspec

from bench.brokers import backlog, by_hand, faststream, latency, ours, reconnect
from bench.brokers.client import BATCH
from bench.measure import Also, Goal, Measure
from bench.reading import Reading, Task
from tidings import dev

LEAST = 200
BACKLOG = 1_000_000
EACH = "events/s of CPU"
DEFAULTS = "FastStream by its defaults"


class Peer(msgspec.Struct, frozen=True):
    """FastStream at some work, how many events it gets to do, and how many times as fast we want to be."""

    measure: str
    work: str
    events: int
    times: float
    what: str


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A server by its name in tidings.dev: how many events, and which share of its plain client is wanted.

    `quick` are settings with which it does not wait for the disk, where filling it is not what is measured.
    """

    server: str
    events: int
    consume: float
    publish: float
    peers: tuple[Peer, ...] = ()
    quick: dict[str, Any] = {}


KINDS = {
    "kafka": Kind(
        server="Kafka", events=50_000, consume=0.5, publish=0.4,
        peers=(
            Peer("faststream", "consume", 5000, 15, "FastStream by its defaults, which acknowledge before handling"),
            Peer("faststream_acked", "consume_acked", 500, 200, "FastStream told to acknowledge after handling"),
        ),
    ),
    "nats": Kind(
        server="Nats", events=10_000, consume=0.8, publish=0.7,
        peers=(Peer("faststream", "consume", 3000, 2, DEFAULTS),),
        quick={"jetstream": {"sync_interval": "2m"}},
    ),
    "rabbitmq": Kind(
        server="RabbitMQ", events=10_000, consume=0.8, publish=0.7,
        peers=(Peer("faststream", "consume", 2000, 8, DEFAULTS),),
    ),
    "valkey": Kind(
        server="Valkey", events=20_000, consume=0.6, publish=0.6,
        peers=(Peer("faststream", "consume", 2000, 20, DEFAULTS),),
        quick={"appendfsync": "everysec"},
    ),
    "postgres": Kind(server="Postgres", events=50_000, consume=0.6, publish=0.5, quick={"synchronous_commit": "off"}),
}  # fmt: skip


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
    return Measure(
        what="a backlog of typed events, an `async def` handler that does nothing, acknowledged after it",
        goal=consume,
        ours=partial(_work, ours.work, kind.events),
        raw=partial(_work, partial(by_hand.work, name), kind.events),
        also=(
            Also(f"{name}.consume_cpu", "consume_cpu", EACH, "the same by the CPU of the process", consume),
            Also(f"{name}.publish", "publish", "events/s", "1,000 at a time, confirmed", publish, "publish_us"),
            Also(f"{name}.publish_cpu", "publish_cpu", EACH, "the same by the CPU of the process", publish),
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


def _drained(run: Any, kind: Kind, task: Task) -> Reading:
    """One side of backlog, on a server of its own."""
    with getattr(dev, kind.server)(task.folder / "server", settings=kind.quick) as server:
        reading: Reading = asyncio.run(run(server.url, _fresh(), _many(BACKLOG, task.scale)))
        return reading


def _waiting(name: str, kind: Kind) -> Measure:
    speed, goal = "the same: its last tenth in the speed of its first", Goal("ours", "least", 0.8)
    return Measure(
        unit="MB",
        what="MB above an idle worker while one worker drains a million events",
        goal=Goal("ours", "most", 64),
        ours=partial(_drained, partial(backlog.by_us, name), kind),
        raw=partial(_drained, partial(backlog.by_raw, name), kind),
        also=(Also(f"{name}.backlog_speed", "slowing", "last / first", speed, goal),),
        long=True,
    )


def _killed(kind: Kind, task: Task) -> Reading:
    """Ours, on a server of its own."""
    with getattr(dev, kind.server)(task.folder / "server") as server:
        return asyncio.run(reconnect.by_us(server, _fresh()))


def _back(name: str, kind: Kind) -> Measure:
    attempts, goal = "connection attempts of the process while it is down", Goal("ours", "most", 2.0)
    return Measure(
        unit="s",
        what="from a killed server's being up again to the first event handled",
        goal=Goal("ours", "most", 3.0),
        ours=partial(_killed, kind),
        raw=None,
        also=(Also(f"{name}.reconnect_attempts", "attempts", "1/s", attempts, goal),),
        long=True,
    )


def _beside(name: str, kind: Kind, peer: Peer) -> Measure:
    times = Goal("ratio", "least", peer.times)
    what = f"consuming; raw: {peer.what}"
    return Measure(
        what=what,
        goal=times,
        ours=partial(_work, ours.work, kind.events),
        raw=partial(faststream.consume, kind=name, work=peer.work, events=peer.events),
        prepare=faststream.prepare,
        also=(Also(f"{name}.{peer.measure}_cpu", "consume_cpu", EACH, f"{what}, by the CPU of the process", times),),
    )


def _all(name: str, kind: Kind) -> dict[str, Measure]:
    peers = {peer.measure: _beside(name, kind, peer) for peer in kind.peers}
    made = {
        "consume": _working(name, kind),
        "latency": _late(name),
        **peers,
        "backlog": _waiting(name, kind),
        "reconnect": _back(name, kind),
    }
    return {f"{name}.{measure}": what for measure, what in made.items()}


MEASURES = {name: measure for server, kind in KINDS.items() for name, measure in _all(server, kind).items()}
