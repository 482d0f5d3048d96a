"""The user's database of a run in PostgreSQL: the effects, and the rows of the service's Tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import msgspec
import psycopg

from tidings.chaos.site import Effect
from tidings.errors import ConfigError, StorageError
from tidings.stores.postgres import PostgresStore

TABLE = "chaos_effects"
THERE = f"SELECT to_regclass('{TABLE}') IS NOT NULL"
EFFECTS = f"""CREATE TABLE {TABLE} (place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL,
    number bigint NOT NULL, key text NOT NULL, pid int NOT NULL, at float8 NOT NULL)"""
EFFECT = f"INSERT INTO {TABLE} (account, number, key, pid, at) VALUES (%s, %s, %s, %s, %s)"  # noqa: S608 - a constant
SEEN = f"SELECT account, number, key, pid, at FROM {TABLE} ORDER BY place"  # noqa: S608 - a constant
COUNT = f"SELECT coalesce(max(place), 0) FROM {TABLE}"  # noqa: S608 - a constant
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
        """Raise ConfigError where a run has been in the database."""
        ((there,),) = self.read(THERE)
        if there:
            raise ConfigError(
                f"{self._database.name} has a table {TABLE} already. A run counts all that is in it: name a database "
                "in which none has been."
            )

    def prepare(self) -> None:
        """See Books.prepare."""
        with self._database.connect() as connection:
            connection.execute(EFFECTS)

    def record(self, connection: Any, effect: Effect) -> None:
        """See Site.record."""
        connection.execute(EFFECT, effect)

    def count(self) -> int:
        """See Books.count; numbers that were given and not used are counted too."""
        ((count,),) = self.read(COUNT)
        return int(count)

    def sizes(self) -> tuple[int | None, int | None]:
        """See Books.sizes; the log is the whole server's."""
        ((size,),) = self.read(SIZE)
        return None, int(size)

    def effects(self) -> Iterator[Effect]:
        """See Site.effects."""
        return (Effect(*row) for row in self.read(SEEN))

    def rows(self, table: str) -> Iterator[tuple[str, list[int]]]:
        """See Site.rows."""
        return ((key.decode(), msgspec.msgpack.decode(value)) for key, value in self.read(ROWS, table))

    def damage(self) -> str:
        """See Site.damage: PostgreSQL finds it when it reads, and then a run does not get so far."""
        return ""

    def close(self) -> None:
        """See Site.close."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def read(self, sql: str, *values: Any) -> Sequence[Any]:
        """All rows of a statement that only reads. Raises a StorageError."""
        if self._reader is None or self._reader.closed:
            self._reader = self._database.connect(durable=False)
        try:
            return self._reader.execute(sql.encode(), values or None).fetchall()
        except psycopg.Error as error:
            self.close()
            raise StorageError(f"{self._database.name}: {error}") from error
