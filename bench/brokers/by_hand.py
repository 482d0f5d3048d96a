"""The loop around a plain client: encode and publish, take and decode, call, settle. The same for all."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from bench.brokers.client import Client, Pair, batch_of, client
from bench.brokers.count import Counted
from bench.brokers.ours import PATIENCE, Handle, nothing
from bench.reading import Reading, Watch
from bench.sample import OrderPlaced, orders

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(OrderPlaced).decode


def pairs(events: Sequence[OrderPlaced]) -> list[Pair]:
    """Key and body."""
    return [(event.customer, encode(event)) for event in events]


async def publish(plain: Client, some: Sequence[OrderPlaced], count: int) -> Reading:
    """The same thousand again and again, encoded each time; what comes before the watch warms up."""
    await plain.publish(pairs(some))
    watch = Watch()
    for _ in range(len(some), count, len(some)):
        await plain.publish(pairs(some))
    return watch.rate(count - len(some))


async def consume(plain: Client, handle: Handle, counted: Counted) -> None:
    """Until all are settled. Raises TimeoutError where nothing comes."""
    heard = time.monotonic()
    while counted.seen < counted.all:
        bodies = await plain.take()
        if bodies:
            for body in bodies:
                await handle(decode(body))
            await plain.settle()
            counted.note(counted.seen + len(bodies))
            heard = time.monotonic()
        elif time.monotonic() > heard + PATIENCE:
            raise TimeoutError(f"{counted.seen} of {counted.all} came")


async def work(kind: str, url: str, topic: str, count: int) -> Reading:
    """Publish `count` events, then consume them."""
    plain = client(kind, url, topic)
    await plain.open()
    await plain.declare()
    published = await publish(plain, orders(batch_of(count)), count)
    counted = Counted(count)
    await consume(plain, nothing, counted)
    await plain.close()
    return counted.reading(published)
