"""psycopg by hand: a table as a log, `unnest` to append to it, and the position of the group in the same database."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from bench.brokers.client import BATCH, PATIENCE, Pair

SCHEMA = """
CREATE TABLE {topic} (pos bigserial PRIMARY KEY, key text NOT NULL, body bytea NOT NULL);
CREATE TABLE {topic}_position (pos bigint NOT NULL);
INSERT INTO {topic}_position VALUES (0);
"""
APPEND = "INSERT INTO {topic} (key, body) SELECT * FROM unnest(%b::text[], %b::bytea[])"
NOTIFY = "NOTIFY {topic}"
READ = "SELECT pos, body FROM {topic} WHERE pos > %b ORDER BY pos LIMIT %b"
MOVE = "UPDATE {topic}_position SET pos = %b"


class Plain:
    """See client.Client."""

    def __init__(self, url: str, topic: str) -> None:
        self._url, self._topic = url, topic
        self._connection: psycopg.Connection
        self._append, self._notify, self._read, self._move = (
            statement.format(topic=topic).encode() for statement in (APPEND, NOTIFY, READ, MOVE)
        )
        self._pos = 0
        self._listening = False

    async def open(self) -> None:
        """Connect."""
        self._connection = psycopg.connect(self._url, autocommit=True)

    async def declare(self) -> None:
        """The log, and a position before its first record."""
        self._connection.execute(SCHEMA.format(topic=self._topic).encode())

    async def publish(self, pairs: Sequence[Pair]) -> None:
        """One statement, and a word to who listens, in one commit."""
        keys, bodies = zip(*pairs, strict=True)
        with self._connection.transaction():
            self._connection.execute(self._append, (list(keys), list(bodies)), prepare=True)
            self._connection.execute(self._notify)

    async def take(self) -> Sequence[bytes]:
        """What is behind the position; where that is nothing, what comes with the next notification."""
        if not self._listening:
            self._connection.execute(f"LISTEN {self._topic}".encode())
            self._listening = True
        rows = self._rows()
        if not rows:
            list(self._connection.notifies(timeout=PATIENCE, stop_after=1))
            rows = self._rows()
        if rows:
            self._pos = rows[-1][0]
        return [body for _, body in rows]

    def _rows(self) -> list[tuple[int, bytes]]:
        with self._connection.cursor(binary=True) as cursor:
            return cursor.execute(self._read, (self._pos, BATCH), prepare=True).fetchall()

    async def settle(self) -> None:
        """The position moves behind what was taken."""
        self._connection.execute(self._move, (self._pos,), prepare=True)

    async def close(self) -> None:
        """Disconnect."""
        self._connection.close()
