"""A PostgreSQL database: connected to with the right settings, its errors given a name and a remedy.

Every connection has one owner. While the server is away all of a process together try at most twice a second, ever
less often, with jitter. What a half-open connection would make wait for ever has a deadline in the kernel (keepalives,
`tcp_user_timeout`) and one here (`Connection.cut`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tidings.clock import Clock
from tidings.errors import (
    ConfigError,
    StorageBroken,
    StorageBusy,
    StorageError,
    StorageForeign,
    StorageFull,
    StorageReadOnly,
    StorageTooNew,
    StorageUnsafe,
    Unreachable,
)
from tidings.options import masked
from tidings.pg import packed, schema
from tidings.pg.connection import Connection, Cursor, Row

log = logging.getLogger("tidings")

OLDEST = 13_00_00
DEADLINE = 15.0
"""Seconds that a statement of ours may take before its connection is given up."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 4.0
"""Seconds between two attempts to connect, before jitter: it is added, never taken off."""
DEFAULTS: Mapping[str, Any] = {
    "application_name": "tidings", "client_encoding": "UTF8", "connect_timeout": 5, "tcp_user_timeout": 10000,
    "keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
}  # fmt: skip
SETTLED = """SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
    current_setting('transaction_read_only') = 'on', current_setting('fsync') = 'on',
    current_setting('server_encoding'),
    set_config('synchronous_commit', CASE WHEN NOT %(durable)s THEN 'off'
        WHEN current_setting('synchronous_commit') = 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
    set_config('enable_seqscan', CASE WHEN %(lent)s THEN current_setting('enable_seqscan') ELSE 'off' END, false),
    set_config('jit', CASE WHEN %(lent)s THEN current_setting('jit') ELSE 'off' END, false),
    set_config('lock_timeout', '10s', false), set_config('default_transaction_isolation', 'read committed', false),
    set_config('idle_in_transaction_session_timeout', %(idle)s, false),
    set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false)"""
LOST = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow, errors.IdleInTransactionSessionTimeout)
BEGINNING_OR_ENDING = ("starting up", "shutting down", "not yet accepting", "too many clients", "too many connections")
"""What a server says to who connects that will soon say something else."""
OTHER_TLS = ("certificate", "SSL error", "SSL was required")


class Away(StorageError, Unreachable):
    """The server is not there, or went away, or is silent; what was asked of it may have been done or not."""


class Database:
    """A database, by its libpq URL or conninfo. `durable=False` commits without fsync, for tests.

    `idle` in seconds: how long a transaction may wait for its client before the server ends it, so that a process that
    was stopped keeps no lock for ever.
    """

    def __init__(self, url: str, clock: Clock, *, durable: bool = True, idle: float = 30.0) -> None:
        try:
            self._options: dict[str, Any] = {**DEFAULTS, **conninfo_to_dict(url)}
        except psycopg.Error:
            raise ConfigError(
                f"{masked(url)} is not an address of PostgreSQL; write postgresql://user@host:port/database, "
                "with options that libpq knows, such as ?sslmode=require"
            ) from None
        self.clock = clock
        self.durable = durable
        self._idle = idle
        self.name = named_place(self._options)
        self._gate = threading.Lock()
        self._not_before = 0.0
        self._pause = FIRST_PAUSE
        self._problem: StorageError | None = None
        self._warned = False

    # -- connecting

    def connect(self, *, durable: bool = True) -> Connection:
        """A new connection with the settings that the promises need. Raises a StorageError that says what to do.

        Where it only marks and reads (not `durable`), nothing of it needs to wait for the disk, nor has a handler any
        part in it: plans that were made while a table was small must not go through all of it when it has grown.
        A plan that has to all the same looks so dear that PostgreSQL would compile it, which takes half a second.
        """
        self._may_try()
        try:
            connection = Connection.connect(self._conninfo(), autocommit=True, cursor_factory=Cursor)
        except psycopg.Error as error:
            raise self._failed(refused(error, self.name)) from error
        try:
            packed.register(connection)
            found = connection.run(SETTLED, self._settings(durable=durable)).fetchone()
            self._check(found or ())
        except psycopg.Error as error:
            connection.close()
            raise self._failed(named(error, self.name)) from error
        except StorageError as problem:
            connection.close()
            raise self._failed(problem) from None
        connection.appended, connection.delayed, connection.deferred, connection.grown = [], [], [], set()
        connection.clock = self.clock
        return connection

    async def connect_async(self) -> psycopg.AsyncConnection[Row]:
        """One for the event loop, not durable."""
        self._may_try()
        try:
            connection = await psycopg.AsyncConnection.connect(self._conninfo(), autocommit=True)
        except psycopg.Error as error:
            raise self._failed(refused(error, self.name)) from error
        try:
            cursor = await connection.execute(SETTLED, self._settings(durable=False), binary=True)
            self._check(await cursor.fetchone() or ())
        except BaseException as error:
            await connection.close()
            if isinstance(error, psycopg.Error):
                raise self._failed(named(error, self.name)) from error
            if isinstance(error, StorageError):
                raise self._failed(error) from None
            raise
        return connection

    def _conninfo(self) -> str:
        return make_conninfo("", **self._options)

    def _settings(self, *, durable: bool) -> dict[str, Any]:
        return {"durable": durable and self.durable, "lent": durable, "idle": f"{max(int(self._idle * 1000), 1000)}ms"}

    def _may_try(self) -> None:
        """One attempt at a time, and a pause after one that failed, for all threads and tasks of the process."""
        with self._gate:
            now = self.clock.monotonic()
            if self._problem is not None and now < self._not_before:
                raise type(self._problem)(*self._problem.args)
            self._not_before = now + self._pause * (1.0 + self.clock.random())

    def _failed(self, problem: StorageError) -> StorageError:
        with self._gate:
            self._problem = problem
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        return problem

    def _check(self, found: Row) -> None:
        version, standby, read_only, fsync, encoding, *_ = found
        if version < OLDEST:
            raise StorageUnsafe(
                f"{self.name} is PostgreSQL {version // 10000}; tidings needs {OLDEST // 10000} or newer."
            )
        if encoding != "UTF8":
            raise StorageUnsafe(
                f"{self.name} keeps text as {encoding}, which cannot hold every character; "
                "make a database with ENCODING 'UTF8' TEMPLATE template0."
            )
        if standby:
            raise StorageReadOnly(
                f"{self.name} is a standby, which cannot write. Name the primary, or several hosts with "
                "?target_session_attrs=read-write."
            )
        if read_only:
            raise StorageReadOnly(
                f"{self.name} is read-only for this user; set default_transaction_read_only=off for the role."
            )
        if not fsync and self.durable and not self._warned:
            self._warned = True
            log.warning("%s runs with fsync=off: what is acknowledged can be lost with the machine", self.name)
        with self._gate:
            self._problem, self._pause = None, FIRST_PAUSE

    # -- the tables

    def prepare(self) -> None:
        """Create the tables, or check them. Raises a StorageError that says what to do."""
        connection = self.connect()
        try:
            with connection.transaction():
                connection.execute(schema.LOCK)
                self._prepare(connection)
        except errors.InsufficientPrivilege as error:
            raise StorageReadOnly(
                f"{self.name}: {_words(error)}. The first start creates the schema `tidings`: GRANT CREATE ON DATABASE "
                "to this user; or let an owner start once, and grant USAGE on schema tidings and all on its tables."
            ) from error
        except psycopg.Error as error:
            raise named(error, self.name) from error
        finally:
            connection.close()

    def _prepare(self, connection: Connection) -> None:
        there, ours = connection.run(schema.STATE).fetchone() or (False, False)
        if there and not ours:
            raise StorageForeign(
                f"{self.name} has a schema `tidings` that tidings did not make. Rename it, or choose another database."
            )
        if ours:
            (version,) = connection.run(schema.VERSION).fetchone() or (None,)
            if version is not None and version > schema.FORMAT:
                raise StorageTooNew(
                    f"{self.name} has format {version}; this tidings knows {schema.FORMAT}. Update tidings."
                )
            if version == schema.FORMAT:
                return
        connection.execute(schema.TABLES)
        connection.run(schema.STAMP, (schema.FORMAT,))


def named_place(options: Mapping[str, Any]) -> str:
    """Which database it is, for messages."""
    user = f"{options['user']}@" if options.get("user") else ""
    host, port = options.get("host") or options.get("hostaddr") or "", options.get("port")
    return f"postgresql://{user}{host}{f':{port}' if port else ''}/{options.get('dbname', '')}"


def refused(error: psycopg.Error, name: str) -> StorageError:
    """Why it was not possible to connect, and what to do."""
    pgconn, words = error.pgconn, _words(error)
    tls = any(said in words for said in OTHER_TLS)
    if tls:
        remedy = "See sslmode, sslrootcert (who is believed), sslcert and sslkey (who we are)."
    elif pgconn is not None and getattr(pgconn, "needs_password", False):
        remedy = "It wants a password: write postgresql://user:password@..., or set PGPASSWORD or ~/.pgpass."
    elif pgconn is not None and getattr(pgconn, "used_password", False):
        remedy = "Check user, password and database, and pg_hba.conf on the server."
    else:
        remedy = "Is the server up, can it be reached from here, do user, database, sslmode and sslcert fit?"
    answered = "FATAL" in words and not any(said in words for said in BEGINNING_OR_ENDING)
    kind = StorageError if answered or tls else Away
    return kind(f"{name} cannot be connected to: {words}. {remedy}")


def lost(error: BaseException, connection: psycopg.BaseConnection[Any] | None) -> bool:
    """Whether the connection is gone, so that another one may do better."""
    return isinstance(error, LOST) or (
        isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        and (connection is None or connection.closed or connection.broken)
    )


def named(error: psycopg.Error, name: str) -> StorageError:
    """The StorageError that says what an error of PostgreSQL means and what to do."""
    words = _words(error)
    match error:
        case errors.DiskFull():
            return StorageFull(f"{name}: {words}. Free some space on the server; writing goes on by itself.")
        case errors.ReadOnlySqlTransaction():
            return StorageReadOnly(f"{name} takes no writes just now ({words}); name the primary.")
        case errors.InsufficientPrivilege() | errors.InvalidPassword():
            return StorageReadOnly(
                f"{name}: {words}. Grant USAGE on schema tidings and all on its tables and sequences to this user."
            )
        case errors.DataCorrupted() | errors.IndexCorrupted():
            return StorageBroken(f"{name}: {words}. Nothing more is written; the server's log says what is damaged.")
        case errors.DeadlockDetected() | errors.SerializationFailure() | errors.LockNotAvailable():
            return StorageBusy(f"{name}: {words}. Others hold what this needs; try again.")
        case errors.UndefinedTable() | errors.UndefinedColumn() if "tidings." in words:
            return StorageForeign(f"{name}: {words}. The tables of tidings are gone or changed; restore them.")
        case psycopg.OperationalError() if error.sqlstate is None or isinstance(error, LOST):
            return Away(f"{name}: {words}")
        case _:
            return StorageError(f"{name}: {words}")


def _words(error: psycopg.Error) -> str:
    """What the server or the driver says, in one line."""
    said = error.diag.message_primary or str(error)
    return " ".join(said.split()).rstrip(".") or type(error).__name__
