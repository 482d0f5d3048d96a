"""Whoever waits for the broker may be cancelled at any await: nothing is lost by it, and nothing doubled."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

from tidings.broker import Broker, Delivery, Feature, Start, Subscription
from tidings.testing.checks.server import (
    GROUP,
    TOPIC,
    Server,
    check,
    drain,
    expect,
    ids,
    nothing,
    numbered,
    record,
    take,
)

MOST = 16
"""No operation suspends more often than this."""
KEYS = [f"k{index}" for index in range(8)]


class Suspensions(Generator[Any, Any, Any]):
    """Runs a coroutine and tells each time it suspends, with the future that it waits for."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], suspended: Callable[[Any], None]) -> None:
        self._coroutine = coroutine
        self._suspended = suspended

    def send(self, value: Any) -> Any:
        """See Generator."""
        waited = self._coroutine.send(value)
        self._suspended(waited)
        return waited

    def throw(self, *error: Any) -> Any:
        """See Generator."""
        waited = self._coroutine.throw(*error)
        self._suspended(waited)
        return waited

    def __await__(self) -> Generator[Any, Any, Any]:
        return self


async def cancel_at(operation: Coroutine[Any, Any, Any], step: int, *, late: bool) -> bool:
    """Run it, cancel it when it suspends for the `step`th time; whether it came so far.

    `late`: only once that for which it waits is there, but before it has learned of it.
    """
    loop = asyncio.get_running_loop()
    steps = itertools.count()
    reached = False

    def suspended(waited: Any) -> None:
        nonlocal reached
        if next(steps) == step:
            reached = True
            if late and waited is not None:
                waited.add_done_callback(lambda _: task.cancel())
            else:
                loop.call_soon(task.cancel)

    async def run() -> Any:
        return await Suspensions(operation, suspended)

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
    return reached


def points() -> Iterator[tuple[int, bool, str]]:
    """Each point at which to cancel, with a name for ids; whoever uses it ends when no point is reached any more."""
    for step in range(MOST):
        for late in (False, True):
            yield step, late, f"s{step:02}{'l' if late else 'e'}"


@check(Feature.UNIQUE)
async def a_publish_may_be_cancelled(server: Server) -> None:
    """Then it happened or it did not; publishing the same again is safe and leaves it once."""
    async with server.connect() as broker:
        view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
        wanted: list[str] = []
        for step, late, name in points():
            pair = [record(f"{name}-1", "k"), record(f"{name}-2", "k")]
            reached = await cancel_at(broker.publish(pair), step, late=late)
            await broker.publish(pair)
            wanted += ids(pair)
            if not reached:
                break
        expect(ids(await take(view, len(wanted))), wanted, "what was published")
        await nothing(view, "something was published twice")


@check()
async def a_fetch_may_be_cancelled(server: Server) -> None:
    """What it was about to lend is lent by the next one, be it new or tried again."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        for tried_before, (step, late, name) in itertools.product((False, True), points()):
            await broker.publish([record(f"{name}-{tried_before}", "k")])
            if tried_before:
                await group.nack(await take(group, 1))
            lent: list[Delivery] = []
            await cancel_at(_fetch(group, lent), step, late=late)
            lent = lent or await take(group, 1)
            expect(ids(lent), [f"{name}-{tried_before}"], "what comes after a fetch was cancelled")
            await group.ack(lent)
        await nothing(group, "something came twice")
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag")


async def _fetch(group: Subscription, lent: list[Delivery]) -> None:
    lent += await group.fetch(10, 1.0)


@check()
async def an_acknowledgement_may_be_cancelled(server: Server) -> None:
    """Then it happened or it did not; acknowledging the same again settles it, and what follows is not held up."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        for step, late, name in points():
            await broker.publish([record(f"{name}-1", "k"), record(f"{name}-2", "l")])
            first, second = await take(group, 2)
            reached = await cancel_at(group.ack([first]), step, late=late)
            await group.ack([first])
            await nothing(group, "what is acknowledged came again", wait=0.0)
            await group.ack([second])
            if not reached:
                break
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag")
        await group.close()
        again = await broker.subscribe([TOPIC], GROUP)
        await nothing(again, "what is acknowledged came again after a close")


@check()
async def handing_back_may_be_cancelled(server: Server) -> None:
    """Then it happened or it did not; handing the same back again is harmless, and it comes once."""
    async with server.connect() as broker:
        group = await broker.subscribe([TOPIC], GROUP)
        for step, late, name in points():
            await broker.publish([record(f"{name}-1", "k"), record(f"{name}-2", "k")])
            lent = await take(group, 2)
            reached = await cancel_at(group.nack(lent[:1]), step, late=late)
            await group.nack(lent[:1])
            again = await drain(group, 2)
            expect(ids(again), [f"{name}-1", f"{name}-2"], "what comes again")
            expect([each.attempt for each in again], [2, 1], "the attempts")
            if not reached:
                break
        await nothing(group, "something came twice")
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag")


@check()
async def joining_and_leaving_may_be_cancelled(server: Server) -> None:
    """Nobody is left behind who keeps a share of the records."""
    async with server.connect() as broker:
        await broker.declare(TOPIC, [GROUP])
        for step, late, name in points():
            reached = await cancel_at(_join_and_leave(broker), step, late=late)
            await broker.publish(numbered(16, keys=KEYS, prefix=name))
            group = await broker.subscribe([TOPIC], GROUP)
            expect(sorted(ids(await drain(group, 16))), ids(numbered(16, prefix=name)), "what the next member gets")
            await group.close()
            if not reached:
                break


async def _join_and_leave(broker: Broker) -> None:
    group = await broker.subscribe([TOPIC], GROUP)
    try:
        await group.fetch(10, 0.0)
    finally:
        await group.close()
