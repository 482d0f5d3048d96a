"""Where the events go: a server that moves records and has the file as its store, or a database that has both.

What the groups have done at the file is carried over in one commit: to the inbox beside the server, which is in the
file itself, or to the rows of the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from tidings.broker import Feature, Record
from tidings.config import load
from tidings.connect import POSTGRES, Connection, connect
from tidings.embedded import fence
from tidings.errors import ConfigError
from tidings.moving.source import NEWEST, Feed, Source

INBOX = """INSERT INTO tidings_inbox (grp, topic, id, done, tries, due, owner, at) VALUES (?, ?, ?, ?, ?, ?, '', ?)
    ON CONFLICT (grp, topic, id) DO UPDATE SET done = excluded.done, tries = excluded.tries, due = excluded.due"""

STEP = 2000
"""Positions of which the inbox learns in one commit."""


class Target(Protocol):
    """A broker that can take over what the groups of a file have done."""

    connection: Connection
    settings: str
    """What the app is to be started with from then on."""
    left: list[str]
    """The user's own tables that stay behind in the file, where the app has no connection to it any more."""

    async def prepare(self, feed: Feed, upto: int) -> None:
        """Learn what the group has done up to a position up to which it has done everything, while the app goes on."""
        ...

    async def settle(self, feeds: Sequence[Feed], delayed: Sequence[Record], told: str) -> None:
        """Take over what the groups have done and what is delayed; then the move is final, which workers are told."""
        ...


def place_of(url: str) -> str:
    """The URL without what is secret, for people and for keeping: who signs in, and all options but `prefix`."""
    parts = urlsplit(url)
    options = [(name, value) for name, value in parse_qsl(parts.query) if name == "prefix"]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=urlencode(options)).geturl()


def target(url: str, source: Source) -> Target:
    """The broker of this URL, not yet open. Raises ConfigError where nothing can move there."""
    scheme = url.partition(":")[0]
    if scheme in POSTGRES:
        from tidings.moving.postgres import DatabaseTarget  # noqa: PLC0415 - an extra

        return DatabaseTarget(connect(load(broker=url, store=url), source.clock), source, place_of(url))
    if scheme in ("sqlite", "memory"):
        raise ConfigError(
            f"TO is {url!r}, but events move to a server; a file can simply be copied while nothing runs."
        )
    connection = connect(load(broker=url, store=f"sqlite:{source.path}"), source.clock)
    if Feature.REPLAY not in connection.broker.features:
        raise ConfigError(
            f"{place_of(url)} keeps no history: what was copied could not be compared. Move to NATS, Kafka, Redis or "
            "PostgreSQL, or let `tidings bridge` carry new events over."
        )
    return ServerTarget(connection, source, place_of(url))


class ServerTarget:
    """A server, and the file as the store beside it: the inbox there knows what the groups have done."""

    def __init__(self, connection: Connection, source: Source, place: str) -> None:
        self.connection = connection
        self.settings = f"--broker {place} --store sqlite:{source.path}"
        self.left: list[str] = []
        self._source = source

    async def prepare(self, feed: Feed, upto: int) -> None:
        """See Target. In commits that are so small that nobody has to wait for them."""
        for low in range(feed.begun or 0, upto, STEP):
            unit = self.connection.store.unit()
            unit.add(partial(self._learn, feed=feed._replace(begun=low), upto=min(low + STEP, upto)))
            await unit.commit()

    def _learn(self, connection: Any, feed: Feed, upto: int) -> None:
        self._know(connection, feed, upto)
        self._source.known(connection, feed, upto)

    async def settle(self, feeds: Sequence[Feed], delayed: Sequence[Record], told: str) -> None:
        """See Target. One commit."""
        unit = self.connection.store.unit()
        await self.connection.broker.publish(delayed, tx=unit)
        unit.add(lambda connection: self._carry(connection, feeds))
        unit.add(lambda connection: fence.finish(connection, told))
        await unit.commit()

    def _carry(self, connection: Any, feeds: Sequence[Feed]) -> None:
        now = self._source.clock.now()
        for feed in feeds:
            self._know(connection, feed, NEWEST)
            tried = self._source.tried(connection, feed)
            rows = ((feed.group, feed.topic, id, 0, tries, due, now) for id, _, tries, due in tried)
            connection.executemany(INBOX, rows)

    def _know(self, connection: Any, feed: Feed, upto: int) -> None:
        now = self._source.clock.now()
        done = self._source.done(connection, feed, upto)
        connection.executemany(INBOX, ((feed.group, feed.topic, id, 1, 0, 0.0, now) for id in done))
