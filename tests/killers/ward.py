"""An app whose events are tried alone before they are buried: imported by the tests and by their processes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

from tests.killers.program import strike
from tidings import App, Delivery, Event, Isolation, Retry, Start, Tx

LIMITS = Isolation(memory=64 << 20, seconds=20.0)
SHORT = Isolation(seconds=0.5)


class Sent(Event, name="ward.sent", key="key"):
    """How it is fatal, alone too; "" for not at all."""

    key: str
    how: str = ""


class Healed(Event, name="ward.healed", key="key"):
    """What a handler says that ends well."""

    key: str
    pid: int
    rows: int = 0


class Clock:
    """Something provided."""

    pid = os.getpid()


app = App("ward")
stays = app.table("stay", list[str])
app.provide(Clock())


def suffer(how: str) -> None:
    """As `strike`, but memory within the limits of its process."""
    if how == "memory":
        eaten = [bytearray(1 << 20) for _ in range(1000)]
        raise AssertionError(f"{len(eaten)} MiB were to be had")
    strike(how, 0.0)


@app.on(Sent, retry=Retry(times=2), start=Start.EARLIEST, isolate=LIMITS)
async def plain(sent: Sent) -> Healed:
    suffer(sent.how)
    return Healed(key=sent.key, pid=os.getpid())


@app.on(Sent, retry=Retry(times=2), start=Start.EARLIEST, isolate=LIMITS)
async def with_tx(sent: Sent, tx: Tx, clock: Clock, delivery: Delivery) -> AsyncIterator[Healed]:
    before = await tx.get(stays, "all", [])
    tx.put(stays, "all", [*before, sent.key])
    tx.delete(stays, "gone")
    assert await tx.get(stays, "all") == [*before, sent.key]
    assert await tx.get(stays, "gone") is None
    assert clock.pid == os.getpid()
    yield Healed(key=sent.key, pid=os.getpid(), rows=len(before))
    suffer(sent.how)


@app.on(Sent, retry=Retry(times=2), start=Start.EARLIEST, isolate=LIMITS)
def in_thread(sent: Sent) -> Iterator[Healed]:
    suffer(sent.how)
    yield Healed(key=sent.key, pid=os.getpid())


@app.on(Sent, retry=Retry(times=2), start=Start.EARLIEST, isolate=LIMITS)
async def several(batch: list[Sent]) -> list[Healed]:
    for sent in batch:
        suffer(sent.how)
    return [Healed(key=sent.key, pid=os.getpid()) for sent in batch]


@app.on(Sent, retry=Retry(times=2), start=Start.EARLIEST, isolate=SHORT)
async def short(sent: Sent) -> None:
    suffer(sent.how)


@app.on(Sent, retry=Retry(times=2), start=Start.EARLIEST, isolate=LIMITS)
async def telling(sent: Sent) -> None:
    await app.publish(Healed(key=sent.key, pid=os.getpid()))


@app.on(Sent, retry=Retry(times=0, at_once=0), start=Start.EARLIEST, isolate=LIMITS)
async def hungry(sent: Sent) -> Healed:
    """Too much for its worker, not for a process of its own."""
    try:
        os.close(os.open("fed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return Healed(key=sent.key, pid=os.getpid())
    raise MemoryError
