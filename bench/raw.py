"""What one would write by hand: sqlite3 and msgspec on the tables of the embedded broker, nothing in between.

The yardstick of every measure. It has the same schema, pragmas and durability as tidings, and the same good habits
(group commit in one thread, checkpoints after the acknowledgement), but no groups, retries, validation, leases or
metrics. It is kept as fast as straightforward code can be: a slow yardstick would flatter us.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import itertools
import os
import queue
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.sample import OrderCounted, OrderPlaced
from tidings.brokers.sqlite import SCHEMA

PRAGMAS = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000; PRAGMA wal_autocheckpoint=0;
PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-16384; PRAGMA temp_store=MEMORY; PRAGMA secure_delete=OFF;
"""
INSERT = """INSERT INTO tidings_log (topic, part, id, type, key, time, headers, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
SELECT = "SELECT pos, type, key, body FROM tidings_log WHERE topic = ? AND pos > ? ORDER BY pos LIMIT ?"
OFFSET = "UPDATE tidings_position SET pos = ? WHERE feed = 1000000 AND part = 0"
START = "INSERT OR REPLACE INTO tidings_position (feed, part, pos) VALUES (1000000, 0, 0)"
HEADERS = '{"source":"bench","eventversion":"1.0"}'
BATCH = 500
IN_MODIFY = 2
CHECKPOINT_EVENTS = 8192
MOST_QUEUED = 2000

Row = tuple[Any, ...]
Job = tuple[Row, asyncio.Future[None]]
encode = msgspec.json.Encoder().encode


def connect(path: Path) -> sqlite3.Connection:
    """A connection as tidings sets it up, in autocommit mode, usable from one thread at a time."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA page_size=4096")
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    connection.executescript(PRAGMAS)
    connection.executescript(SCHEMA)
    return connection


def notify_file(path: Path) -> str:
    """Where a byte is written after each commit."""
    return f"{path}.raw-notify"


def topic_id(connection: sqlite3.Connection, name: str) -> int:
    """The topic's number, made where it is new."""
    connection.execute("INSERT OR IGNORE INTO tidings_topic (name) VALUES (?)", (name,))
    return int(connection.execute("SELECT id FROM tidings_topic WHERE name = ?", (name,)).fetchone()[0])


class Rows:
    """Makes the row of an event: encoded, with a time-ordered id in the text form of a UUID."""

    def __init__(self, topic: int, type: str = "order.placed") -> None:
        stamp = f"{int(time.time() * 1000):012x}"
        self._prefix = f"{stamp[:8]}-{stamp[8:]}-7000-8000-"
        self._count = itertools.count(1)
        self._topic = topic
        self._type = type

    def __call__(self, event: OrderPlaced | OrderCounted) -> Row:
        """All columns but the position."""
        key = event.customer
        part = zlib.crc32(key.encode()) % 16
        id = f"{self._prefix}{next(self._count):012x}"
        return self._topic, part, id, self._type, key, time.time(), HEADERS, encode(event)


class Turn:
    """Processes take turns by an flock on a side file: SQLite's own waiting starves."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(f"{path}.raw-lock", os.O_RDWR | os.O_CREAT, 0o644)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Wait for the turn and hold it."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class GroupCommit:
    """Publishers await a future; one thread commits whatever has queued since its last commit.

    With `shared`, other processes use the file too: commits take turns, and each is followed by a byte to the
    notify file.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._connection = connect(path)
        self._row = Rows(topic_id(self._connection, "order"))
        self._turn = Turn(path) if shared else contextlib.nullcontext
        self._notify = os.open(notify_file(path), os.O_RDWR | os.O_CREAT, 0o644) if shared else None
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def publish(self, event: OrderPlaced) -> asyncio.Future[None]:
        """Done when the event is durable."""
        future = self._loop.create_future()
        self._queue.put((self._row(event), future))
        return future

    def close(self) -> None:
        """Commit what is queued and end."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        written = 0
        while (first := self._queue.get()) is not None:
            jobs = self._take(first)
            self._commit([row for row, _ in jobs])
            self._loop.call_soon_threadsafe(_resolve, [future for _, future in jobs])
            written += len(jobs)
            if written > CHECKPOINT_EVENTS:
                written = 0
                with self._turn():
                    self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _take(self, first: Job) -> list[Job]:
        jobs = [first]
        with contextlib.suppress(queue.Empty):
            while len(jobs) < MOST_QUEUED:
                job = self._queue.get_nowait()
                if job is None:
                    self._queue.put(None)
                    break
                jobs.append(job)
        return jobs

    def _commit(self, rows: list[Row]) -> None:
        with self._turn():
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(INSERT, rows)
            self._connection.execute("COMMIT")
        if self._notify is not None:
            os.pwrite(self._notify, b"!", 0)


def _resolve(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        future.set_result(None)


def watch(path: str) -> int:
    """A descriptor that can be read, and then has to be, once the file has been written to."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0 or libc.inotify_add_watch(descriptor, path.encode(), IN_MODIFY) < 0:
        raise OSError(ctypes.get_errno(), f"inotify cannot watch {path}")
    return descriptor


def fill(path: Path, events: Iterable[OrderPlaced]) -> None:
    """Append the events quickly, without fsync."""
    connection = connect(path)
    connection.execute("PRAGMA synchronous=OFF")
    rows = map(Rows(topic_id(connection, "order")), events)
    while batch := list(itertools.islice(rows, 10_000)):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(INSERT, batch)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.close()
