"""Group commit: one thread a process takes whatever queued during the last commit and commits it at once.

Records, and acknowledgements that are one statement, share a transaction; a unit that runs a handler or locks rows has
one of its own, so that no other can fail or deadlock with it. What shares one is tried again where its connection was
lost, until its time is over: ids and positions make that safe. A unit whose connection was lost while it committed is
asked for by its transaction's id: what has happened is never done twice, nor said not to have.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from tidings import failpoint
from tidings.errors import Closed, CommitRefused, StorageBroken, StorageError, TidingsError
from tidings.pg import log as records
from tidings.pg.connection import Connection
from tidings.pg.database import DEADLINE, Away, Database, lost, named

log = logging.getLogger("tidings")

Step = Callable[[Connection], Any]

MOST_JOBS = 2000
CLOSE_WAIT = 30.0
BUSY_WAIT = 10.0
LOOK = 0.5
AGAIN = 0.25
"""Seconds after which appends are tried again that found no server."""
HINT_EVERY = 0.002
"""Seconds between two hints to other processes."""
DELAYED = 0
"""Stands for a topic where delayed records have come."""
REFUSED = (errors.IntegrityError, errors.RaiseException, errors.DataError)
"""What deferred constraints and their triggers say at a commit."""
BEGIN = "BEGIN; SELECT pg_current_xact_id()::text"
STATUS = "SELECT pg_xact_status(%s::xid8)"
HINT = "BEGIN; SET LOCAL synchronous_commit = off; SELECT pg_notify('tidings', '{}'); COMMIT"
"""After the commit, in one of its own: in the same one, all commits of the server that notify would take turns."""


class Statement(msgspec.Struct, frozen=True):
    """A step of one statement, which needs no transaction around it. `check(connection, rows)` sees what it did."""

    sql: str
    values: Any
    check: Callable[[Connection, int], None]

    def __call__(self, connection: Connection) -> None:
        """Execute it inside a transaction, with what else is left for its end."""
        connection.defer(self.sql, self.values, lambda cursor: self.check(connection, cursor.rowcount))


class Job(msgspec.Struct):
    """Work for a transaction, and the future of what came of it."""

    future: asyncio.Future[Any]
    since: float
    entries: Sequence[records.Entry] = ()
    step: Step | None = None
    result: Any = None
    error: BaseException | None = None

    begun: bool = False
    """Whether its transaction was begun: until then nothing can have come of it."""

    @property
    def alone(self) -> bool:
        """Whether it needs a transaction of its own."""
        return self.step is not None and not isinstance(self.step, Statement)


class Writer:
    """The one writing connection of a process, in a thread of its own.

    `grown(topics)` is called on the event loop after a commit with which these topics have grown.
    """

    def __init__(self, database: Database, grown: Callable[[Iterable[int]], None]) -> None:
        self._database = database
        self._grown = grown
        self._loop = asyncio.get_running_loop()
        self._pending: list[Job] = []
        self._expected: deque[Job] = deque()
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._waiting: deque[Job] = deque()  # the thread's
        self._topics: set[int] = set()  # the thread's: those that have grown since others were told
        self._hinted = 0.0
        self._broken: StorageError | None = None
        self._closed = False
        self._last = False
        self._connection: Connection | None = None
        self.pid = 0  # of the server's process that works for this connection
        self._pause = threading.Event()  # never set: it lets the thread wait
        self._thread = threading.Thread(target=self._run, name="tidings-writer", daemon=True)
        self._thread.start()
        self._watcher = asyncio.create_task(self._watch(), name="tidings-writer-watch")

    # -- called on the event loop

    def append(self, entries: Sequence[records.Entry]) -> asyncio.Future[Any]:
        """Append to the log; done when that is durable."""
        return self._submit(entries, None)

    def run(self, step: Step) -> asyncio.Future[Any]:
        """Run `step(connection)` in a transaction; done, with its result, when that is durable."""
        return self._submit((), step)

    def _submit(self, entries: Sequence[records.Entry], step: Step | None) -> asyncio.Future[Any]:
        if self._closed or self._broken:
            raise self._broken or Closed(f"the connection to {self._database.name} is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._pending:
            self._loop.call_soon(self._flush)
        job = Job(future, self._database.clock.monotonic(), entries, step)
        self._pending.append(job)
        if not job.alone:
            self._expected.append(job)
        return future

    def _flush(self) -> None:
        if self._pending:
            jobs, self._pending = self._pending, []
            self._queue.put(jobs)

    async def _watch(self) -> None:
        while True:
            await self._database.clock.sleep(LOOK)
            self.watch()

    def watch(self) -> None:
        """Fail what has waited for too long and may be done again, and cut a connection whose server does not answer.

        Units are not given up: their outcome has to be known.
        """
        now = self._database.clock.monotonic()
        while self._expected and (self._expected[0].future.done() or now - self._expected[0].since > BUSY_WAIT):
            job = self._expected.popleft()
            if not job.future.done():
                job.future.set_exception(
                    Away(f"{self._database.name} did not take it within {BUSY_WAIT:g} s; try again.")
                )
        connection = self._connection
        since = None if connection is None or connection.lent else connection.begun
        if connection is not None and since is not None and now - since > DEADLINE:
            log.warning("%s has not answered for %.0f s: its connection is given up", self._database.name, now - since)
            connection.cut()

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
        self._watcher.cancel()

    def _resolve(self, jobs: Sequence[Job], topics: Iterable[int]) -> None:
        for job in jobs:
            if job.future.done():
                continue
            if job.error is not None:
                job.future.set_exception(job.error)
            else:
                job.future.set_result(job.result)
        if topics:
            self._grown(topics)

    # -- called in the thread

    def _run(self) -> None:
        while jobs := self._take():
            self._work(jobs)
            self._hint()
        self._hinted = 0.0
        self._hint()
        if self._connection is not None:
            self._connection.close()

    def _take(self) -> list[Job]:
        """The next jobs that may share a transaction; none at the end."""
        self._fill(block=not self._waiting)
        if not self._waiting:
            return []
        jobs = [self._waiting.popleft()]
        while not jobs[0].alone and self._waiting and not self._waiting[0].alone and len(jobs) < MOST_JOBS:
            jobs.append(self._waiting.popleft())
        return jobs

    def _fill(self, *, block: bool) -> None:
        while not self._last:
            try:
                more = self._queue.get(block, self._until_hint() if block else None)
            except queue.Empty:
                if not block:
                    return
                self._hint()
                continue
            if more is None:
                self._last = True
                return
            self._waiting.extend(more)
            block = False

    def _until_hint(self) -> float | None:
        """Seconds until others are to be told what has grown; None where nothing has."""
        return max(self._hinted + HINT_EVERY - self._database.clock.monotonic(), 0.0) if self._topics else None

    def _work(self, jobs: Sequence[Job]) -> None:
        """Commit these jobs; each has its result or its error then."""
        known = self._connection is not None
        try:
            if self._broken:
                raise self._broken
            connection = self._connected()
            connection.begun = self._database.clock.monotonic()
            connection.grown.clear()
            work = self._own if jobs[0].alone else self._together
            work(connection, jobs)
            connection.begun = None
            self._topics |= connection.grown
            self._tell(jobs, connection.grown.copy())
        except StorageError as problem:
            self._unmade(jobs, problem)
        except psycopg.Error as error:
            if not self._drop(error):
                self._singly(jobs, named(error, self._database.name) if jobs[0].step else error)
            elif known and not jobs[0].begun:
                self._work(jobs)  # it may have been lost long ago, and the server be up again
            else:
                self._unmade(jobs, named(error, self._database.name))
        except BaseException as error:  # noqa: BLE001 - a thread that died would leave every publisher waiting
            self._drop(error)
            self._singly(jobs, error)

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.connect()
            self.pid = self._connection.info.backend_pid
        return self._connection

    def _unmade(self, jobs: Sequence[Job], problem: StorageError) -> None:
        """There is no connection. What may be done twice is tried again until its time is over."""
        if isinstance(problem, StorageBroken):
            self._broken = problem
        kept = [job for job in jobs if not job.alone and not job.future.done()]
        if self._last or self._broken:
            kept = []
        self._fail([job for job in jobs if job not in kept], problem)
        if kept:
            self._waiting.extendleft(reversed(kept))
            self._pause.wait(AGAIN)

    def _singly(self, jobs: Sequence[Job], error: BaseException) -> None:
        """One of them is bad: the others must not fail with it."""
        if isinstance(error, StorageBroken):
            self._broken = error
        if len(jobs) == 1 or self._broken:
            self._fail(jobs, error)
            return
        for job in jobs:
            self._work([job])

    def _fail(self, jobs: Sequence[Job], error: BaseException) -> None:
        for job in jobs:
            job.error = error
        self._tell(jobs, set())

    def _tell(self, jobs: Sequence[Job], grown: set[int]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed without waiting for us
            self._loop.call_soon_threadsafe(self._resolve, jobs, grown)

    def _drop(self, error: BaseException) -> bool:
        """Undo what is open; whether the connection is gone."""
        connection = self._connection
        if connection is None:
            return True
        connection.begun, connection.lent = None, False
        try:
            if not lost(error, connection):
                if connection.info.transaction_status != TransactionStatus.IDLE:
                    connection.execute("ROLLBACK")
                return False
        except psycopg.Error:
            pass
        connection.close()
        self._connection = None
        return True

    def _together(self, connection: Connection, jobs: Sequence[Job]) -> None:
        """Records, and acknowledgements of one statement, in one commit; what is one statement alone needs none."""
        acks = [(job, job.step) for job in jobs if isinstance(job.step, Statement)]
        entries = [entry for job in jobs for entry in job.entries]
        todo = [(ack.sql, ack.values) for _, ack in acks] + records.statements(entries)
        failpoint.hit("committing")
        if len(todo) == 1:
            cursors = [connection.run(*todo[0])]
        else:
            with connection.pipeline():
                connection.run("BEGIN")
                cursors = [connection.run(*each) for each in todo]
                connection.run("COMMIT")
        failpoint.hit("committed")
        connection.grown.update(map(records.TOPIC, entries))
        for (job, ack), cursor in zip(acks, cursors, strict=False):
            try:
                ack.check(connection, cursor.rowcount)
            except TidingsError as error:
                job.error = error

    def _own(self, connection: Connection, jobs: Sequence[Job]) -> None:
        """A unit in a transaction of its own."""
        (job,) = jobs
        assert job.step is not None
        cursor = connection.execute(BEGIN)
        job.begun = True
        cursor.nextset()
        (xid,) = cursor.fetchone() or ("",)
        for of_another in (connection.appended, connection.delayed, connection.deferred):
            of_another.clear()
        job.result = job.step(connection)
        for sql, values in records.statements(connection.appended, connection.delayed):
            connection.defer(sql, values)
        connection.catch_up()
        connection.grown.update(map(records.TOPIC, connection.appended))
        if connection.delayed:
            connection.grown.add(DELAYED)
        failpoint.hit("committing")
        try:
            connection.run("COMMIT")
        except REFUSED as error:
            raise CommitRefused(f"{named(error, self._database.name)}, which is checked at the commit.") from error
        except psycopg.Error as error:
            if not (self._drop(error) and self._happened(xid)):
                raise
            log.warning("the connection to %s was lost in a commit, which has happened", self._database.name)
        failpoint.hit("committed")

    def _happened(self, xid: str) -> bool:
        """Whether a transaction was committed whose connection was lost meanwhile: ask until the server knows."""
        while True:
            try:
                (status,) = self._connected().run(STATUS, (xid,)).fetchone() or (None,)
            except (psycopg.Error, StorageError) as error:
                self._connection = None
                if self._last:
                    raise
                log.warning("whether a commit happened is not known yet: %s", error)
            else:
                if status != "in progress":
                    return bool(status == "committed")
            self._pause.wait(AGAIN)

    def _hint(self) -> None:
        """Tell other processes which topics have grown; in a busy time not after each commit."""
        if self._connection is None:
            self._topics.clear()
        if self._connection is None or self._until_hint() != 0.0:
            return
        self._hinted = self._database.clock.monotonic()
        try:
            self._connection.execute(HINT.format(",".join(map(str, sorted(self._topics)))).encode())
        except psycopg.Error as error:  # what is committed is committed; others look for themselves in a moment
            log.warning("nobody was told of a commit to %s: %s", self._database.name, error)
            self._drop(error)
        self._topics.clear()
