"""What a check is given, and what checks share: records, and ways to look at what comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple

import msgspec

from tidings.broker import Broker, Delivery, Feature, Record, Subscription
from tidings.clock import Clock
from tidings.config import Config
from tidings.errors import BrokerError, Closed, Fenced
from tidings.store import Store

PATIENCE = 60.0
"""Real seconds until what has to come is taken for lost."""
QUIET = 0.3
"""Seconds of the server's clock in which nothing may come."""
PAUSE = 0.1
"""Real seconds until something that has failed is done again."""
TOPIC, GROUP = "contract", "contract.group"
Blow = Callable[[], Awaitable[None]]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Where connections of one kind go: a file, a server. Empty when a check begins, and used by it alone.

    `connect` opens one more connection, as another process would. `clock` is whose seconds the broker counts; it may
    run faster than real time, but runs by itself. `lease` is how many of its seconds a silent member keeps what it was
    lent, and `silence` makes a connection say nothing more and give nothing back, as SIGKILL does; None where that
    cannot be done here. `store` opens the store that shares transactions with a connection, where ATOMIC.
    `delay` is how many of its seconds a delay lasts in a check: longer than anything stalls for.
    `largest` is the size in bytes of a body that must arrive, `too_large` of one that must be refused, if any must.

    What follows is None where it cannot be done here. `config` is where a member in another process connects. `restart`
    ends the server in order and starts it again on what it has kept, `kill` the same after SIGKILL. `cut` ends every
    connection to it from this process. `remove` deletes what the server holds of the topic "contract". `many` is how
    many records are published through a restart.
    """

    connect: Callable[[], AbstractAsyncContextManager[Broker]]
    clock: Clock
    lease: float = 30.0
    silence: Callable[[Broker], Awaitable[None]] | None = None
    store: Callable[[Broker], AbstractAsyncContextManager[Store]] | None = None
    delay: float = 1.0
    largest: int = 1 << 20
    too_large: int | None = None
    config: Config | None = None
    restart: Blow | None = None
    kill: Blow | None = None
    cut: Blow | None = None
    remove: Blow | None = None
    many: int = 10_000

    async def quiet(self) -> None:
        """Let some time pass in which something could come."""
        await self.clock.sleep(QUIET)


class Check(NamedTuple):
    """A promise, the features without which it is not given, and what finds out whether it is kept.

    `wants` is what the Server must be able to do for that, "" for nothing special.
    """

    name: str
    promise: str
    needs: Feature
    wants: str
    run: Callable[[Server], Awaitable[None]]


def check(
    needs: Feature = Feature(0),  # noqa: B008 - immutable
    *,
    wants: Literal["", "silence", "config", "restart", "kill", "cut", "remove"] = "",
) -> Callable[[Callable[[Server], Awaitable[None]]], Check]:
    """Make a check of a function; its docstring is the promise."""

    def make(function: Callable[[Server], Awaitable[None]]) -> Check:
        return Check(function.__name__, " ".join((function.__doc__ or "").split()), needs, wants, function)

    return make


def record(id: str, key: str | None = None, *, topic: str = TOPIC, due: float | None = None) -> Record:
    """A record whose body is its id."""
    return Record(topic, id.encode(), key, "contract.checked", id, 1_767_225_600.0, {"source": "contract"}, due)


def numbered(
    count: int, *, keys: Sequence[str | None] = (None,), prefix: str = "r", topic: str = TOPIC
) -> list[Record]:
    """Records with rising ids, their keys in turn."""
    return [record(f"{prefix}{index:04}", keys[index % len(keys)], topic=topic) for index in range(count)]


def ids(deliveries: Iterable[Delivery | Record]) -> list[str]:
    """Their ids, in order."""
    return [(each.record if isinstance(each, Delivery) else each).id for each in deliveries]


def expect(actual: object, wanted: object, why: str) -> None:
    """Fail, saying both, where they differ."""
    if actual != wanted:
        raise AssertionError(f"{why}: got {_short(actual)}, wanted {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 300 else f"{text[:200]} ... {text[-80:]} ({len(text)} characters)"


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    """Fetch until so many have come, without settling them."""
    taken: list[Delivery] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while len(taken) < count:
                taken += await subscription.fetch(count - len(taken), 1.0)
    except TimeoutError:
        raise AssertionError(f"only {ids(taken)} came of {count} records") from None
    return taken


async def drain(subscription: Subscription, count: int) -> list[Delivery]:
    """Fetch and acknowledge until so many have come."""
    taken: list[Delivery] = []
    while len(taken) < count:
        lent = await take(subscription, 1)
        await subscription.ack(lent)
        taken += lent
    return taken


async def acknowledged(subscription: Subscription, delivery: Delivery) -> bool:
    """Whether it is settled, however often that has to be asked for; it comes again where it is not."""
    while True:
        try:
            await subscription.ack([delivery])
        except Fenced:
            return False
        except BrokerError:
            await asyncio.sleep(PAUSE)
        else:
            return True


async def nothing(subscription: Subscription, why: str, *, wait: float = QUIET) -> None:
    """Fail where something comes."""
    expect(ids(await subscription.fetch(100, wait)), [], why)


async def raises_closed(operation: Awaitable[object], why: str) -> None:
    """Fail where it does not raise Closed."""
    try:
        await operation
    except Closed:
        return
    raise AssertionError(f"{why}: Closed was not raised")
