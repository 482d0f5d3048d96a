"""The file of all runs of a stage, as it is when a run begins, and the connections to it.

To make a file for each run, and to let every process in it open, read and compile anew what all of them do, took a
third of the time. So a run writes to the file of the last one, which is put back to what was prepared, and a process
goes on with the connections that a dead one has left: rolled back, but with their statements compiled.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from tidings.embedded.database import Connection, Database
from tidings.embedded.membership import Lent

NAME = "tidings.db"
LENT = NAME + ".lent"
WRITER = "writer"
"""The role of the connections that handlers see too."""
OBJECTS = "SELECT type, name, sql FROM {schema}.sqlite_master ORDER BY name"
TEMPORARY = "SELECT 1 FROM temp.sqlite_master LIMIT 1"


class Left(Connection):
    """A connection that whoever dies leaves to the next one. Who ends in order closes it: nothing may use it then."""

    files: Files
    role = WRITER
    guarded = False

    def guard(self) -> None:
        """See Connection.guard; a second time all its statements would have to be compiled again."""
        if not self.guarded:
            self.guarded = True
            super().guard()

    def executescript(self, script: str) -> sqlite3.Cursor:
        """See sqlite3. Of the engine, which makes its tables where they are lacking: they are there."""
        return super().executescript(script) if self.role == WRITER else self.cursor()

    def close(self) -> None:
        """See sqlite3."""
        super().close()
        self.files.forget(self)

    def leave(self) -> None:
        """Let the next process have it that asks for one of its role, unless it has tables of its own."""
        if self.in_transaction:
            self.execute("ROLLBACK")
        if self.role == WRITER and self.execute(TEMPORARY).fetchone() is not None:
            self.close()
            return
        self.lent, self.refused, self.appended, self.engine = False, "", False, None
        self.files.left[self.role].append(self)


class Files:
    """The folder of a stage: `prepare` what a run begins with, `restore` it before each."""

    def __init__(self, folder: Path) -> None:
        self._template = folder / "template"
        self._run = folder / "run"
        self._template.mkdir()
        self._prepared = False
        self.left: dict[str, list[Left]] = {}
        self._all: dict[Left, None] = {}
        self._databases: dict[str, SimDatabase] = {}
        self._keeper: sqlite3.Connection | None = None
        self._objects: list[Any] = []
        self._schema = 0
        self._undo: list[str] = []
        self._lent = b""
        self._lasting: Lasting | None = None

    @property
    def lent(self) -> Lent:
        """How far is lent in the run."""
        if self._lasting is None:
            self._lasting = Lasting(self._run / LENT)
        return self._lasting

    @property
    def path(self) -> Path:
        """The file, that of the template as long as it is not prepared."""
        return (self._run if self._prepared else self._template) / NAME

    def database(self, role: str) -> Database:
        """The file, for one use of it in a process."""
        if not self._prepared:
            return NewDatabase(self.path, durable=False)
        if role not in self._databases:
            self._databases[role] = SimDatabase(self, role)
        return self._databases[role]

    def prepared(self, tables: str) -> None:
        """All is declared, and nobody uses the file any more; `tables` is SQL that makes those of the services."""
        connection = self.database("").connect()
        connection.executescript(tables)
        connection.close()
        self._prepared = True

    def restore(self) -> None:
        """Let the file be as it was prepared."""
        if self._keeper is None or not self._put_back(self._keeper):
            self.close()
            self._keeper = self._begin_anew()
        with (self._run / LENT).open("r+b") as lent:
            lent.write(self._lent.ljust(os.fstat(lent.fileno()).st_size, b"\0"))

    def _put_back(self, keeper: sqlite3.Connection) -> bool:
        """Undo what was written; False where that cannot be done, as where somebody still holds a snapshot."""
        try:
            if self._version(keeper) != self._schema and not self._drop_new(keeper):
                return False
            keeper.execute("BEGIN IMMEDIATE")
            for statement in self._undo:
                keeper.execute(statement)
            keeper.execute("COMMIT")
            (busy, *_) = keeper.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:  # a table that cannot be copied, such as one with generated columns
            return False
        return not busy

    def _drop_new(self, keeper: sqlite3.Connection) -> bool:
        """Undo what was declared; False where something was dropped or altered."""
        found = keeper.execute(OBJECTS.format(schema="main")).fetchall()
        if any(each not in found for each in self._objects):
            return False
        for kind, name, sql in found:
            if (kind, name, sql) not in self._objects and sql is not None:
                keeper.execute(f'DROP {kind} IF EXISTS main."{name}"')  # its table may be gone, and it with that
        self._schema = self._version(keeper)
        return True

    def _begin_anew(self) -> sqlite3.Connection:
        shutil.copytree(self._template, self._run)
        self._lent = (self._template / LENT).read_bytes()
        keeper = SimDatabase(self, "").connect()
        keeper.execute("ATTACH ? AS prepared", (str(self._template / NAME),))
        self._objects = keeper.execute(OBJECTS.format(schema="prepared")).fetchall()
        self._undo = []
        for name in (name for kind, name, _ in self._objects if kind == "table"):
            self._undo.append(f'DELETE FROM main."{name}"')  # noqa: S608 - names of the file itself
            if keeper.execute(f'SELECT 1 FROM prepared."{name}" LIMIT 1').fetchone():  # noqa: S608
                self._undo.append(f'INSERT INTO main."{name}" SELECT * FROM prepared."{name}"')  # noqa: S608
        self._schema = self._version(keeper)
        return keeper

    @staticmethod
    def _version(keeper: sqlite3.Connection) -> int:
        return int(keeper.execute("PRAGMA main.schema_version").fetchone()[0])

    def add(self, connection: Left) -> None:
        """Close it when all are closed."""
        self._all[connection] = None
        self.left.setdefault(connection.role, [])

    def forget(self, connection: Left) -> None:
        """It is closed."""
        self._all.pop(connection, None)

    def close(self) -> None:
        """Close all connections, and remove the file."""
        if self._lasting is not None:
            self._lasting.end()
            self._lasting = None
        for connection in list(self._all):
            connection.close()
        if self._keeper is not None:
            self._keeper.close()
        self.left, self._keeper = {}, None
        shutil.rmtree(self._run, ignore_errors=True)


class Lasting(Lent):
    """How far is lent, for one process after another."""

    def close(self) -> None:
        """See Lent.close: the next one goes on with it."""

    def end(self) -> None:
        """Close it."""
        super().close()


class NewDatabase(Database):
    """The file, as it is prepared: there is little in it, and small pages are less to copy at each commit."""

    page_size = 1024


class SimDatabase(Database):
    """The file, as a process opens it for one use of it."""

    factory = Left
    options = "?vfs=unix-excl"

    def __init__(self, files: Files, role: str) -> None:
        super().__init__(files.path, durable=False)
        self._files = files
        self._role = role

    @property
    def lent(self) -> Lent:
        """See Files.lent."""
        return self._files.lent

    def open(self) -> None:
        """It was checked when it was prepared."""
        self._opened += 1

    def connect(self, *, durable: bool | None = None) -> Connection:
        """See Database.connect."""
        if left := self._files.left.get(self._role):
            return left.pop()
        made = super().connect(durable=durable)
        assert isinstance(made, Left)
        made.files, made.role = self._files, self._role
        self._files.add(made)
        return made


def leave(connection: Connection) -> None:
    """Who has used it has died."""
    if isinstance(connection, Left):
        connection.leave()
    else:
        connection.close()
