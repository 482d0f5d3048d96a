"""Group commit: one thread a process takes whatever queued during the last fsync and commits it at once.

There is no linger: with one publisher a commit holds one event, with a hundred it holds a hundred. Processes take
turns by an flock on a side file, because SQLite's own busy handler starves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from tidings import failpoint
from tidings.embedded.database import Connection, Database, named
from tidings.errors import Closed, CommitRefused, StorageBroken, StorageBusy, StorageError, TidingsError

try:
    import fcntl
except ImportError:  # Windows: SQLite's own lock decides alone
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("tidings")

Step = Callable[[Connection], Any]


class Insert(Protocol):
    """Writes rows in the open transaction."""

    def __call__(self, connection: Connection, rows: Sequence[Any]) -> int:
        """Insert them. Returns about how many bytes they are."""
        ...


def no_rows(connection: Connection, rows: Sequence[Any]) -> int:
    """For a database whose log is elsewhere: nothing is appended."""
    return 0


# Texts of our own: a handler's "COMMIT" must be compiled, and so refused, not found among the cached statements.
BEGIN = "BEGIN IMMEDIATE -- tidings"
COMMIT = "COMMIT -- tidings"
ROLLBACK = "ROLLBACK -- tidings"
MOST_JOBS = 2000
CLOSE_WAIT = 30.0
BUSY_WAIT = 10.0
LOOK = 0.5
COMMIT_BYTES = 12 << 10
CHECKPOINT_BYTES = 8 << 20
RESTART_FRAMES = (64 << 20) // 4096


class Job(msgspec.Struct):
    """Work for one transaction, and the future of what came of it.

    `rows` jobs are plain inserts that share one statement; a `step` job runs in a savepoint of its own, so that its
    error is its own.
    """

    future: asyncio.Future[Any]
    rows: Sequence[Any] = ()
    step: Step | None = None
    result: Any = None
    error: BaseException | None = None


class Writer:
    """The one writing connection of a process, in a thread of its own.

    `insert` is how `rows` are written. `committed` is called in the thread after a commit with which the log has
    grown.
    """

    def __init__(self, database: Database, insert: Insert, committed: Callable[[], None]) -> None:
        self._database = database
        self._insert = insert
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._pending: list[Job] = []
        self._sent: deque[tuple[float, list[Job]]] = deque()
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._broken: StorageError | None = None
        self._closed = False
        self._written = 0
        self._steps = False
        self._wal = database.side("-wal")
        self._wal_most = CHECKPOINT_BYTES
        self.wal_size = 0
        self._connection: Connection | None = None
        self._lock = os.open(database.side(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.begin()

    def begin(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="tidings-writer", daemon=True)
        self._thread.start()

    # -- called on the event loop

    def append(self, rows: Sequence[Any]) -> asyncio.Future[Any]:
        """Insert rows; done when they are durable."""
        return self._submit(rows, None)

    def run(self, step: Step) -> asyncio.Future[Any]:
        """Run `step(connection)` in the next transaction; done, with its result, when that is durable."""
        return self._submit((), step)

    async def patiently(self, step: Step) -> Any:
        """Like `run`. Meanwhile publishers whom another process keeps waiting for too long are told."""
        done = self.run(step)
        try:
            while not done.done():
                await asyncio.wait([done], timeout=LOOK)
                self.expire()
            return await done
        finally:
            done.cancel()

    def _submit(self, rows: Sequence[Any], step: Step | None) -> asyncio.Future[Any]:
        if self._closed or self._broken:
            raise self._broken or Closed("the database is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(Job(future, rows, step))
        return future

    def _flush(self) -> None:
        if self._pending:
            jobs, self._pending = self._pending, []
            self._sent.append((self._loop.time(), jobs))
            self.hand_over(jobs)

    def hand_over(self, jobs: list[Job]) -> None:
        """Give these to the thread."""
        self._queue.put(jobs)

    def expire(self) -> None:
        """Fail the inserts that another process has kept waiting for too long; they may still be written later.

        Steps are not given up: their outcome has to be known.
        """
        for since, jobs in self._sent:
            if self._loop.time() - since < BUSY_WAIT:
                return
            for job in jobs:
                if job.step is None and not job.future.done():
                    job.future.set_exception(
                        StorageBusy(
                            f"{self._database.path} was locked by another process for {BUSY_WAIT:g} s; try again."
                        )
                    )

    @property
    def broken(self) -> StorageError | None:
        """Why nothing more is written."""
        return self._broken

    async def close(self) -> None:
        """Commit what is queued, then end the thread."""
        if self._closed:
            return
        self._flush()
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_WAIT)
        os.close(self._lock)

    def _resolve(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
        while self._sent and self._sent[0][1][-1].future.done():
            self._sent.popleft()

    # -- called in the thread

    def _run(self) -> None:
        last = False
        while not last:
            jobs, last = self._take()
            if jobs:
                self.work(jobs)
                self._tell(jobs)
                self.tidy()
        if self._connection is not None:
            self._farewell(self._connection)

    def work(self, jobs: Sequence[Job]) -> None:
        """Commit these jobs together; each has its result or its error then."""
        try:
            self._connection = self._connection or self._connect()
            self._transaction(self._connection, jobs)
        except sqlite3.IntegrityError as error:  # of the commit: a deferred constraint, which one of them breaks
            if len(jobs) == 1:
                self._fail(jobs, CommitRefused(f"{self._database.path}: {error}, which is checked at the commit."))
                return
            for job in jobs:
                job.error = None
                self.work([job])
        except sqlite3.Error as error:
            self._fail(jobs, named(error, self._database.path))
        except BaseException as error:  # noqa: BLE001 - a thread that died would leave every publisher waiting
            self._fail(jobs, error)

    def tidy(self) -> None:
        """Keep the WAL small."""
        if self._connection is not None:
            self._checkpoint(self._connection)

    def _connect(self) -> Connection:
        connection = self._database.connect()
        connection.guard()
        return connection

    def _take(self) -> tuple[list[Job], bool]:
        taken = self._queue.get()
        if taken is None:
            return [], True
        jobs = taken.copy()
        while len(jobs) < MOST_JOBS:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return jobs, True
            jobs.extend(more)
        return jobs, False

    def _tell(self, jobs: Sequence[Job]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without waiting for us
            self._loop.call_soon_threadsafe(self._resolve, jobs)

    def _fail(self, jobs: Sequence[Job], error: BaseException) -> None:
        if isinstance(error, StorageBroken):
            self._broken = error
        for job in jobs:
            job.error = error

    def _transaction(self, connection: Connection, jobs: Sequence[Job]) -> None:
        if self._broken:
            raise self._broken
        with self._turn():
            if any(job.step is not None for job in jobs):
                self._commit(connection, jobs, self._each)
            else:
                self._insert_together(connection, jobs)
        failpoint.hit("committed")
        if not connection.appended:
            return
        connection.appended = False
        try:
            self._committed()
        except OSError as error:  # what is committed is committed; readers look again in a moment
            log.warning("nobody was told of a commit to %s: %s", self._database.path, error)

    def _commit(
        self, connection: Connection, jobs: Sequence[Job], work: Callable[[Connection, Sequence[Job]], None]
    ) -> None:
        connection.execute(BEGIN)
        try:
            work(connection, jobs)
            failpoint.hit("committing")
            connection.execute(COMMIT)
        except BaseException:
            if connection.in_transaction:
                connection.execute(ROLLBACK)
            raise

    def _insert_together(self, connection: Connection, jobs: Sequence[Job]) -> None:
        try:
            self._commit(connection, jobs, self._all)
        except (
            sqlite3.DataError,
            sqlite3.ProgrammingError,
            sqlite3.IntegrityError,
            ValueError,
            OverflowError,
            TidingsError,
        ):
            self._commit(connection, jobs, self._each)  # one of them is bad: the others must not fail with it

    def _all(self, connection: Connection, jobs: Sequence[Job]) -> None:
        rows = jobs[0].rows if len(jobs) == 1 else [row for job in jobs for row in job.rows]
        self._written += COMMIT_BYTES + self._insert(connection, rows)

    def _each(self, connection: Connection, jobs: Sequence[Job]) -> None:
        self._steps = True
        for job in jobs:
            self._savepoint(connection, job, job.step or partial(self._insert, rows=job.rows))

    def _savepoint(self, connection: Connection, job: Job, step: Step) -> None:
        connection.execute("SAVEPOINT job")
        try:
            job.result = step(connection)
        except BaseException as error:
            job.error = named(error, self._database.path) if isinstance(error, sqlite3.Error) else error
            if not connection.in_transaction:  # SQLite gave up the whole transaction (disk full, I/O error)
                raise
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    @contextlib.contextmanager
    def _turn(self) -> Generator[None]:
        if fcntl is None:
            yield
            return
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _checkpoint(self, connection: Connection) -> None:
        if self._broken or not self._grown():
            return
        try:
            with self._turn():
                _, frames, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if frames > RESTART_FRAMES and moved < frames:
                    self._begin_anew(connection, "RESTART", 300)
                elif moved == frames and self._wal_bytes() > 2 * CHECKPOINT_BYTES:
                    self._begin_anew(connection, "TRUNCATE", 0)  # what it grows to unseen is as much as it has been
                self.wal_size = frames * 4096
            self._wal_most = self._wal_bytes() + CHECKPOINT_BYTES
        except sqlite3.Error as error:
            problem = named(error, self._database.path)
            if isinstance(problem, StorageBroken):
                self._broken = problem

    @staticmethod
    def _begin_anew(connection: Connection, mode: str, milliseconds: int) -> None:
        """Let the next commit write from the start of the WAL, where readers allow it within the time."""
        connection.execute(f"PRAGMA busy_timeout={milliseconds}")
        connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        connection.execute("PRAGMA busy_timeout=5000")

    def _grown(self) -> bool:
        """Whether the WAL is to be emptied. The file is asked where a step wrote: nobody counts what handlers write."""
        grown = self._written >= CHECKPOINT_BYTES or (self._steps and self._wal_bytes() >= self._wal_most)
        self._steps = False
        if grown:
            self._written = 0
        return grown

    def _wal_bytes(self) -> int:
        try:
            return os.stat(self._wal).st_size
        except OSError:
            return 0

    def _farewell(self, connection: Connection) -> None:
        if not self._broken:
            with contextlib.suppress(sqlite3.Error), self._turn():
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        connection.close()
