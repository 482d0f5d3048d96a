"""Where the events go: a server that moves records and has the file as its store, or a database that has both.

What the groups have done at the file is carried over in one commit: to the inbox beside the server, which is in the
file itself, or to the rows of the database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from tidings.broker import Feature, Record
from tidings.config import load
from tidings.connect import POSTGRES, Connection, connect
from tidings.embedded import fence
from tidings.errors import ConfigError
from tidings.moving.source import Feed, Source

INBOX = """INSERT INTO tidings_inbox (grp, topic, id, done, tries, due, owner, at) VALUES (?, ?, ?, ?, ?, ?, '', ?)
    ON CONFLICT (grp, topic, id) DO UPDATE SET done = excluded.done, tries = excluded.tries, due = excluded.due"""


class Target(Protocol):
    """A broker that can take over what the groups of a file have done."""

    connection: Connection
    settings: str
    """What the app is to be started with from then on."""
    left: list[str]
    """The user's own tables that stay behind in the file, where the app has no connection to it any more."""

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
            place = (feed.group, feed.topic)
            done = ((*place, id, 1, 0, 0.0, now) for id in self._source.done(connection, feed))
            connection.executemany(INBOX, done)
            tried = ((*place, id, 0, tries, due, now) for id, _, tries, due in self._source.tried(connection, feed))
            connection.executemany(INBOX, tried)
