"""The embedded broker as the site of a run: one file, read with SQL and not by the engine."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from tidings.brokers.sqlite import SqliteBroker
from tidings.chaos.plan import PUBLISHER, Place
from tidings.chaos.site import Effect, Look
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import connect
from tidings.embedded.database import named
from tidings.errors import ConfigError, StorageError

EFFECTS = """CREATE TABLE effects (place INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL,
    number INTEGER NOT NULL, key TEXT NOT NULL, pid INTEGER NOT NULL, at REAL NOT NULL)"""
EFFECT = "INSERT INTO effects (account, number, key, pid, at) VALUES (?, ?, ?, ?, ?)"
SEEN = "SELECT account, number, key, pid, at FROM effects ORDER BY place"
COUNT = "SELECT coalesce(max(place), 0) FROM effects"
ROWS = "SELECT key, value FROM tidings_row WHERE tbl = ?"
# Everything but the open dead letters, which nobody works off.
FEEDS = """(SELECT f.id, f.topic FROM tidings_feed f JOIN tidings_group g ON g.id = f.grp
    WHERE g.name NOT LIKE 'operator.%')"""
# Each topic is walked once from where the slowest of its parts is, not once for each part: the order of joins matters.
PENDING = f"""SELECT
    (SELECT count(*) FROM {FEEDS} f
        CROSS JOIN tidings_log l ON l.topic = f.topic
            AND l.pos > (SELECT min(pos) FROM tidings_position WHERE feed = f.id)
        CROSS JOIN tidings_position p ON p.feed = f.id AND p.part = l.part AND p.pos < l.pos
        WHERE NOT EXISTS (SELECT 1 FROM tidings_ack a WHERE a.feed = f.id AND a.pos = l.pos))
    + (SELECT count(*) FROM {FEEDS} f JOIN tidings_ack a ON a.feed = f.id WHERE a.state != 0)
    + (SELECT count(*) FROM tidings_delay)"""  # noqa: S608 - a constant
DEAD = """SELECT l.headers, l.type, l.body FROM tidings_log l JOIN tidings_topic t ON t.id = l.topic
    WHERE t.name LIKE 'dead.%' ORDER BY l.pos"""


class Embedded:
    """A database file of its own for every run: what is there already is left alone."""

    connection: ClassVar[type] = sqlite3.Connection
    places: ClassVar = {
        "burying": Place(rare=True),
        "claimed": Place(7),
        "committed": Place(100),
        "committing": Place(100),
        "giving_up": Place(rare=True),
        "held_back": Place(10),
        "lent_again": Place(10),
        "moving_due": Place(rare=True),
        "published": Place(role=PUBLISHER),
        "publishing": Place(role=PUBLISHER),
    }

    def __init__(self, url: str) -> None:
        self._connection = connect(Config(broker=url), Clock())
        assert isinstance(self._connection.broker, SqliteBroker)
        query = urlsplit(url).query
        self._database = self._connection.broker.database
        self.url = f"sqlite:{self._database.path}{query and '?' + query}"
        self._reader: sqlite3.Connection | None = None

    async def prepare(self) -> None:
        """See Site.prepare."""
        if self._database.path.exists():
            raise ConfigError(
                f"{self._database.path} exists already. A run fills a database of its own and counts all that is in "
                "it: name a file that is not there yet."
            )
        broker, store = self._connection
        await broker.open()
        await store.open()
        with contextlib.closing(self._database.connect()) as connection:
            connection.execute(EFFECTS)
        await store.close()
        await broker.close()

    def record(self, connection: Any, effect: Effect) -> None:
        """See Site.record."""
        connection.execute(EFFECT, effect)

    def look(self) -> Look:
        """See Site.look."""
        ((pending,),), ((effects,),) = self._read(PENDING), self._read(COUNT)
        wal = self._database.side("-wal")
        return Look(pending, effects, wal.stat().st_size if wal.exists() else 0, self._database.path.stat().st_size)

    def effects(self) -> Iterator[Effect]:
        """See Site.effects."""
        return (Effect(*row) for row in self._read(SEEN))

    def rows(self, table: str) -> Iterator[tuple[str, list[int]]]:
        """See Site.rows."""
        return ((key, msgspec.msgpack.decode(value)) for key, value in self._read(ROWS, table))

    def dead(self) -> Iterable[tuple[str, str, int]]:
        """See Site.dead."""
        for headers, type, body in self._read(DEAD):
            yield msgspec.json.decode(headers)["deadhandler"], type, msgspec.json.decode(body)["number"]

    def damage(self) -> str:
        """See Site.damage."""
        try:
            found = "\n".join(row[0] for row in self._read("PRAGMA integrity_check(20)"))
        except StorageError as error:
            return str(error)
        return "" if found == "ok" else found

    def close(self) -> None:
        """See Site.close."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self, sql: str, *values: Any) -> Iterator[Any]:
        """Row by row, of a connection that can never write: no checkpoint comes from here."""
        if self._reader is None:
            path = self._database.path
            self._reader = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
            self._reader.execute("PRAGMA busy_timeout=5000")
        try:
            yield from self._reader.execute(sql, values)
        except sqlite3.Error as error:
            raise named(error, self._database.path) from error
