"""One SQLite file: checked, opened with the right pragmas, its errors given a name and a remedy.

The standard library's driver only: two SQLite libraries on one file in one process lose each other's POSIX locks and
corrupt it. For the same reason the file is never opened by anything but SQLite while connections are open.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from tidings.errors import (
    Moved,
    StorageBroken,
    StorageBusy,
    StorageError,
    StorageForeign,
    StorageFull,
    StorageReadOnly,
    StorageTooNew,
    StorageUnsafe,
    TransactionEnded,
)

log = logging.getLogger("tidings")

APPLICATION_ID = 0x74646E67
FORMAT = 1
WAL_RESET_FIXED = (3, 51, 3)
NETWORK_FILE_SYSTEMS = {
    "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.cephfs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
    "fuse.sshfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb2", "smb3", "smbfs",
}  # fmt: skip

PRAGMAS = """
PRAGMA busy_timeout=5000;
PRAGMA synchronous={synchronous};
PRAGMA wal_autocheckpoint=0;
PRAGMA journal_size_limit=67108864;
PRAGMA cache_size=-16384;
PRAGMA temp_store=MEMORY;
PRAGMA secure_delete=OFF;
"""
"""The page cache is 16 MB: a worker fills all of it, and the system caches the file as well, so more was not faster."""


READ_ERRORS = (sqlite3.Error, TypeError, UnicodeDecodeError)
"""What reading a file raises; not only SQLite's own, where the disk has changed a type, a text or a name."""
MOVING, MOVED = "tidings is moving", "tidings has moved"
"""How a trigger of the fence begins what it says; see `fence.py`."""
CHECK = "check its owner, the disk, and how many files a process may open (`ulimit -n`)"


class Connection(sqlite3.Connection):
    """A connection whose transaction belongs to tidings while a handler uses it."""

    lent = False
    refused = ""
    appended = False
    """Whether the log has grown since readers were told."""
    engine: Any = None
    """SQLAlchemy's, where a handler has asked for a session."""

    def guard(self) -> None:
        """Let no statement end the transaction while it is lent (checked when a statement is compiled)."""
        self.set_authorizer(self._authorize)

    def _authorize(self, action: int, first: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_TRANSACTION and self.lent:
            self.refused = first or "a transaction statement"
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    def commit(self) -> None:
        """Refused inside a handler: the worker commits when the handler returns."""
        self._refuse("commit()")
        super().commit()

    def rollback(self) -> None:
        """Refused inside a handler: raise an exception instead."""
        self._refuse("rollback()")
        super().rollback()

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        """Refused inside a handler, because it commits first."""
        self._refuse("executescript()")
        return super().executescript(sql_script)

    def _refuse(self, what: str) -> None:
        if self.lent:
            raise TransactionEnded(
                f"{what} in a handler would end the transaction that also holds the acknowledgement. "
                "Leave it out: the worker commits when the handler returns and rolls back when it raises."
            )


class Database:
    """A database file of tidings. `durable=False` gives up fsync, for tests.

    `open()` may be called by broker and store; the last `close()` closes. A path of ":memory:" is a temporary folder
    that is removed at the end.
    """

    factory = Connection
    page_size = 4096
    """Of a new file, in bytes."""
    options = ""
    """What SQLite is told beside the path, as the query of a URI."""

    def __init__(self, path: str | Path, *, durable: bool = True) -> None:
        self.temporary = str(path) == ":memory:"
        self.durable = durable and not self.temporary
        # A link is the file that it points to: what lies beside that is shared by all who use it.
        self.path = self._temporary_path() if self.temporary else Path(path).resolve()
        self._opened = 0

    @staticmethod
    def _temporary_path() -> Path:
        shared_memory = Path("/dev/shm")  # noqa: S108 - mkdtemp below makes a folder of our own in it
        parent = shared_memory if os.access(shared_memory, os.W_OK) else None
        return Path(tempfile.mkdtemp(prefix="tidings-", dir=parent)) / "tidings.db"

    def side(self, suffix: str) -> Path:
        """A file beside the database, such as its lock."""
        return self.path.with_name(self.path.name + suffix)

    def open(self) -> None:
        """Create or check the file. Raises a StorageError that says what to do."""
        self._opened += 1
        if self._opened > 1:
            return
        try:
            self._create()
        except BaseException:
            self._opened = 0
            raise

    def close(self) -> None:
        """The last close removes a temporary file."""
        self._opened -= 1
        if self._opened == 0 and self.temporary:
            shutil.rmtree(self.path.parent, ignore_errors=True)

    def _create(self) -> None:
        if not self.path.parent.is_dir():
            raise StorageError(f"The folder {self.path.parent} does not exist; create it or choose another path.")
        refuse_network(self.path)
        if sqlite3.sqlite_version_info < WAL_RESET_FIXED:
            log.info(
                "SQLite %s can corrupt a WAL that a foreign connection checkpoints during a commit (fixed in 3.51.3). "
                "tidings avoids it; on connections of your own set PRAGMA wal_autocheckpoint=0.",
                sqlite3.sqlite_version,
            )
        try:
            connection = self.connect()
            try:
                self._check(connection)
            finally:
                connection.close()
        except READ_ERRORS as error:
            raise named(error, self.path) from error

    def connect(self, *, durable: bool | None = None) -> Connection:
        """A new connection with the pragmas set, in autocommit mode."""
        connection = sqlite3.connect(
            self.path.as_uri() + self.options, uri=True, isolation_level=None, check_same_thread=False,
            factory=self.factory, cached_statements=512,
        )  # fmt: skip
        try:
            if connection.execute("PRAGMA page_count").fetchone() == (0,):
                connection.executescript(
                    f"PRAGMA page_size={self.page_size}; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL;"
                )
            full = self.durable if durable is None else durable
            connection.executescript(PRAGMAS.format(synchronous="FULL" if full else "OFF"))
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: Connection) -> None:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if owner == APPLICATION_ID:
            if version > FORMAT:
                raise StorageTooNew(f"{self.path} has format {version}; this tidings knows {FORMAT}. Update tidings.")
        elif connection.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
            raise StorageForeign(
                f"{self.path} is a SQLite database that tidings did not make. Choose another path; "
                "your own tables can then be created in the new file."
            )
        if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise StorageUnsafe(f"{self.path} cannot be used in WAL mode here; put it on a local disk.")
        if owner != APPLICATION_ID:
            connection.executescript(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={FORMAT};")


def create(connection: sqlite3.Connection, schema: str) -> None:
    """Make what is lacking of a schema, in one commit: each is an fsync. Who finds all there waits for no lock."""
    for begin in ("BEGIN", "BEGIN IMMEDIATE"):
        try:
            connection.executescript(f"{begin}; {schema} COMMIT;")
        except sqlite3.OperationalError as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if begin != "BEGIN" or getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        else:
            return


def mount_of(path: Path, mounts: str | None = None) -> tuple[str, str]:
    """Where the file system that holds `path` is mounted, and its kind; empty where that is not known.

    `mounts` is in the form of /proc/mounts, which is read by default.
    """
    if mounts is None:
        table = Path("/proc/mounts")
        mounts = table.read_text() if table.exists() else ""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        inside = str(path) == point or str(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return best, kind


def refuse_network(path: Path, mounts: str | None = None) -> None:
    """Raise StorageUnsafe where `path` lies on a network file system. `mounts` is in the form of /proc/mounts."""
    best, kind = mount_of(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StorageUnsafe(
            f"{path} lies on {best}, a network file system ({kind}), where locks and fsync cannot be trusted. "
            "Put the file on a local disk, or use a broker with a server."
        )


def named(error: sqlite3.Error | OSError | TypeError | UnicodeDecodeError, path: Path) -> StorageError:
    """The StorageError that says what an error of SQLite, or of a file beside its own, means and what to do."""
    if isinstance(error, TypeError | UnicodeDecodeError):
        return damaged(path, "a value or a name in it is not what was written")
    if isinstance(error, OSError):
        return StorageError(f"{path}: a file beside it cannot be opened ({error.strerror}); {CHECK}.")
    if isinstance(error, sqlite3.ProgrammingError):
        return StorageBroken(f"{path}: {error}. A connection of tidings was closed or misused; start again.")
    exact: int = getattr(error, "sqlite_errorcode", 0)
    code = exact & 0xFF
    if isinstance(error, sqlite3.OperationalError) and not exact:
        return damaged(path, "a text in it is not UTF-8")  # the driver says so, not SQLite, and shows the text
    if exact == sqlite3.SQLITE_CONSTRAINT_TRIGGER and str(error).startswith((MOVING, MOVED)):
        fence, _, told = str(error).partition(": ")
        return Moved(told) if fence == MOVED else StorageBusy(told)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageBusy(f"{path} was locked by another writer for too long ({error}); try again.")
    if code == sqlite3.SQLITE_FULL or exact == sqlite3.SQLITE_IOERR_SHMSIZE:
        return StorageFull(f"No space is left for {path}; free some, writing goes on by itself.")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return StorageReadOnly(f"{path} or its folder cannot be written ({error}); {CHECK}.")
    if code == sqlite3.SQLITE_NOTADB:
        return StorageForeign(f"{path} is not a SQLite database; choose another path.")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR):
        return damaged(path, error)
    return StorageError(f"{path}: {error}")


def damaged(path: Path, what: object) -> StorageBroken:
    """The error of a file that is not what was written."""
    return StorageBroken(
        f"{path}: {what}. Nothing more is written. Run `tidings doctor {path}`, then restore a copy if it says so."
    )
