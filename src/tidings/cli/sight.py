"""What commands that look have before them: a database file, read directly, or a server, asked through its port.

A file is never written to, and nobody is disturbed. A server says which topics and groups it has (`survey.Surveyor`);
lag is the broker's, and dead letters are lent for a look and handed back.
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from typing import Any, Protocol

import click
import msgspec

from tidings import dead
from tidings.broker import Lag, Start
from tidings.cli.catalog import file_of
from tidings.cli.letters import Letter, letters
from tidings.cli.operator import look
from tidings.cli.output import counted
from tidings.clock import Clock
from tidings.config import Config, load
from tidings.connect import Connection, connect, surveyor
from tidings.embedded.catalog import Catalog
from tidings.survey import Census, Surveyor, Topic


class Sight(Protocol):
    """What there is. Raises a BrokerError where the server cannot tell."""

    async def topics(self) -> list[Topic]:
        """Every topic, by name."""
        ...

    async def groups(self) -> dict[str, list[str]]:
        """Every group with its topics, by name."""
        ...

    async def members(self) -> dict[str, int]:
        """How many members groups have; those of which it is not known are missing."""
        ...

    async def lag(self, topic: str, group: str) -> Lag:
        """See Broker.lag."""
        ...

    async def move(self, topic: str, group: str, to: Start | float) -> tuple[int | None, int | None]:
        """Of how many events `Broker.seek` would have the group handle once more, and of how many never; or None."""
        ...

    async def mark(self) -> Any:
        """What `arrived` counts from."""
        ...

    async def arrived(self, mark: Any) -> dict[str, int]:
        """How many events topics have got since; those of which it is not known are missing."""
        ...

    def letters(self, handler: str | None = None) -> AsyncIterator[Letter]:
        """The open dead letters of a handler or of all, those of a key in order. Raises click.UsageError."""
        ...


@contextlib.asynccontextmanager
async def sight(broker: str | None, monitor: str | None = None) -> AsyncGenerator[Sight]:
    """What the URL or the settings name. Raises ConfigError or a BrokerError."""
    config, clock = load(broker=broker), Clock()
    server = surveyor(config, clock, monitor)
    if server is None:
        with Catalog(file_of(config.broker)) as catalog:
            yield FileSight(catalog, clock)
        return
    await server.open()
    there = ServerSight(server, config, clock)
    try:
        yield there
    finally:
        await there.close()
        await server.close()


async def topics_of(broker: str | None, monitor: str | None = None) -> list[Topic]:
    """Every topic, for who looks again and again: whatever has happened to the server since the last time."""
    async with sight(broker, monitor) as there:
        return await there.topics()


class FileSight:
    """See Sight: the file of an embedded broker."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    async def topics(self) -> list[Topic]:
        """See Sight."""
        return self._catalog.topics()

    async def groups(self) -> dict[str, list[str]]:
        """See Sight."""
        return self._catalog.groups()

    async def members(self) -> dict[str, int]:
        """See Sight."""
        found = dict.fromkeys(self._catalog.groups(), 0)
        for member in self._catalog.members(self._clock.monotonic()):
            if not member.dead:
                found[member.group] += 1
        return found

    async def lag(self, topic: str, group: str) -> Lag:
        """See Sight."""
        return self._catalog.lag(topic, group, self._clock.now())

    async def move(self, topic: str, group: str, to: Start | float) -> tuple[int, int]:
        """See Sight."""
        return self._catalog.move(topic, group, to)

    async def mark(self) -> int:
        """See Sight."""
        return self._catalog.head()

    async def arrived(self, mark: int) -> dict[str, int]:
        """See Sight."""
        return dict.fromkeys(self._catalog.topic_names(), 0) | self._catalog.arrived(mark)

    async def letters(self, handler: str | None = None) -> AsyncIterator[Letter]:
        """See Sight."""
        for letter in letters(self._catalog, handler):
            yield letter


class ServerSight:
    """See Sight: a server. Its broker is connected to when something is asked that only the broker knows.

    There is no store: who only looks has nothing to remember.
    """

    def __init__(self, server: Surveyor, config: Config, clock: Clock) -> None:
        self._server = server
        self._config = config
        self._clock = clock
        self._connection: Connection | None = None

    async def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            await self._connection.close()

    async def _connected(self) -> Connection:
        if self._connection is None:
            connection = connect(msgspec.structs.replace(self._config, store=None), self._clock)
            await connection.open()
            self._connection = connection
        return self._connection

    async def topics(self) -> list[Topic]:
        """See Sight."""
        return (await self._server.census()).topics

    async def groups(self) -> dict[str, list[str]]:
        """See Sight."""
        return _by_group(await self._server.census())

    async def members(self) -> dict[str, int]:
        """See Sight."""
        return (await self._server.census()).members

    async def lag(self, topic: str, group: str) -> Lag:
        """See Sight."""
        return await (await self._connected()).broker.lag(topic, group)

    async def move(self, topic: str, group: str, to: Start | float) -> tuple[int | None, int | None]:
        """See Sight. What lies before or behind a time is known where the group has nothing to do before it."""
        lag = await self.lag(topic, group)
        if to is Start.LATEST:
            return 0, lag.waiting
        if to is Start.EARLIEST:
            events = next(each.events for each in await self.topics() if each.name == topic)
            return None if events is None or lag.waiting is None else max(events - lag.waiting, 0), 0
        behind = lag.oldest is not None and self._clock.now() - lag.oldest >= to
        return None, 0 if lag.waiting == 0 or behind else None

    async def mark(self) -> dict[str, int]:
        """See Sight."""
        return {topic.name: topic.ever for topic in await self.topics() if topic.ever is not None}

    async def arrived(self, mark: dict[str, int]) -> dict[str, int]:
        """See Sight."""
        return {name: max(ever - mark.get(name, 0), 0) for name, ever in (await self.mark()).items()}

    async def letters(self, handler: str | None = None) -> AsyncIterator[Letter]:
        """See Sight. All of a handler are lent at once: those that another operator has are not shown."""
        for name in await self._handlers() if handler is None else [handler]:
            waiting = (await self.lag(dead.topic_of(name), dead.operator_of(name))).waiting
            if waiting is None and handler is not None:
                raise click.UsageError(
                    f"There are no dead letters of a handler {name!r} on this server; a handler is APP.HANDLER, such "
                    "as shop.reserve, and has a place for them when it has been started."
                )
            found = [Letter(name, record) async for record in look(await self._connected(), name, waiting or 0)]
            if waiting is not None and len(found) < waiting:
                missing = counted(waiting - len(found), "dead letter")
                click.echo(f"{missing} of {name} cannot be seen: another operator has them just now.", err=True)
            for letter in _oldest_first(found):
                yield letter

    async def _handlers(self) -> list[str]:
        return [name.removeprefix(dead.OPERATOR) for name in await self.groups() if name.startswith(dead.OPERATOR)]


def _by_group(census: Census) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for topic in census.topics:
        for group in topic.groups:
            groups.setdefault(group, []).append(topic.name)
    return dict(sorted(groups.items()))


def _oldest_first(found: Iterable[Letter]) -> Iterator[Letter]:
    """By when they died, but those of a key as they came: parts of a topic are read side by side."""
    by_key: dict[object, list[Letter]] = {}
    for letter in found:
        by_key.setdefault(letter.record.key or (letter.record.id,), []).append(letter)
    return heapq.merge(*by_key.values(), key=lambda letter: letter.died)
