"""The user's database of a run in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import msgspec
import psycopg

from tidings.chaos.books import EFFECTS, Effect
from tidings.errors import ConfigError, StorageError
from tidings.stores.postgres import PostgresStore

THERE = f"SELECT to_regclass('{EFFECTS}') IS NOT NULL"
TABLE = f"""CREATE TABLE {EFFECTS} (place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL,
    number bigint NOT NULL, key text NOT NULL, pid int NOT NULL, at float8 NOT NULL)"""
RECORD = f"INSERT INTO {EFFECTS} (account, number, key, pid, at) VALUES (%s, %s, %s, %s, %s)"  # noqa: S608 - a constant
ROWS = "SELECT key, value FROM tidings.row WHERE tbl = %s"
SIZE = "SELECT pg_database_size(current_database())"


class PostgresBooks:
    """See Books: a database in which no run has been before."""

    connection: ClassVar[type] = psycopg.Connection
    outbox: ClassVar = "SELECT count(*) FROM tidings.tidings_outbox"

    def __init__(self, store: PostgresStore) -> None:
        self._database = store.database
        self._reader: psycopg.Connection[Any] | None = None

    def refuse(self) -> None:
        """See Books.refuse."""
        ((there,),) = self.read(THERE)
        if there:
            raise ConfigError(
                f"{self._database.name} has a table {EFFECTS} already. A run counts all that is in it: name a database "
                "in which none has been."
            )

    def prepare(self) -> None:
        """See Books.prepare."""
        with self._database.connect() as connection:
            connection.execute(TABLE)

    def record(self, connection: Any, effect: Effect) -> None:
        """See Books.record."""
        connection.execute(RECORD, effect)

    def sizes(self) -> tuple[int | None, int | None]:
        """See Books.sizes; the log is the whole server's."""
        ((size,),) = self.read(SIZE)
        return None, int(size)

    def rows(self, table: str) -> Iterator[tuple[str, list[int]]]:
        """See Books.rows."""
        return ((key.decode(), msgspec.msgpack.decode(value)) for key, value in self.read(ROWS, table))

    def damage(self) -> str:
        """See Books.damage: PostgreSQL finds it when it reads, and then a run does not get so far."""
        return ""

    def close(self) -> None:
        """See Books.close."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def read(self, sql: str, *values: Any) -> Sequence[Any]:
        """See Books.read: all rows at once."""
        if self._reader is None or self._reader.closed:
            self._reader = self._database.connect(durable=False)
        try:
            return self._reader.execute(sql.encode(), values or None).fetchall()
        except psycopg.Error as error:
            self.close()
            raise StorageError(f"{self._database.name}: {error}") from error
