"""The user's database of a run in SQLite."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from tidings.chaos.books import EFFECTS, Effect
from tidings.embedded.database import Database, named
from tidings.errors import ConfigError, StorageError

TABLE = f"""CREATE TABLE {EFFECTS} (place INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL,
    number INTEGER NOT NULL, key TEXT NOT NULL, pid INTEGER NOT NULL, at REAL NOT NULL)"""
RECORD = f"INSERT INTO {EFFECTS} (account, number, key, pid, at) VALUES (?, ?, ?, ?, ?)"  # noqa: S608 - a constant
ROWS = "SELECT key, value FROM tidings_row WHERE tbl = ?"


class SqliteBooks:
    """See Books: a file of its own for every run, what is there already is left alone."""

    connection: ClassVar[type] = sqlite3.Connection
    outbox: ClassVar = "SELECT count(*) FROM tidings_outbox"

    def __init__(self, database: Database) -> None:
        self.path = Path(database.path)
        self._database = database
        self._reader: sqlite3.Connection | None = None

    def refuse(self) -> None:
        """Raise ConfigError where the file is there already."""
        if self.path.exists():
            raise ConfigError(
                f"{self.path} exists already. A run fills a database of its own and counts all that is in it: name a "
                "file that is not there yet."
            )

    def prepare(self) -> None:
        """See Books.prepare."""
        with contextlib.closing(self._database.connect()) as connection:
            connection.execute(TABLE)

    def record(self, connection: Any, effect: Effect) -> None:
        """See Books.record."""
        connection.execute(RECORD, effect)

    def sizes(self) -> tuple[int, int]:
        """See Books.sizes."""
        wal = self._database.side("-wal")
        return wal.stat().st_size if wal.exists() else 0, self.path.stat().st_size

    def rows(self, table: str) -> Iterator[tuple[str, list[int]]]:
        """See Books.rows."""
        return ((key, msgspec.msgpack.decode(value)) for key, value in self.read(ROWS, table))

    def damage(self) -> str:
        """See Books.damage."""
        try:
            found = "\n".join(row[0] for row in self.read("PRAGMA integrity_check(20)"))
        except StorageError as error:
            return str(error)
        return "" if found == "ok" else found

    def close(self) -> None:
        """See Books.close."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def read(self, sql: str, *values: Any) -> Iterator[Any]:
        """Row by row, of a connection that can never write: no checkpoint comes from here."""
        if self._reader is None:
            self._reader = sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
            self._reader.execute("PRAGMA busy_timeout=5000")
        try:
            yield from self._reader.execute(sql, values)
        except sqlite3.Error as error:
            raise named(error, self.path) from error
