"""consume_async, consume_sync: a backlog and a handler that does nothing. sql_and_publish: one that does a little.

All three run on one core, and read a log that was filled before.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import raw
from bench.reading import Reading, Task, Watch
from bench.sample import OrderCounted, OrderPlaced, orders
from tidings import App, Start
from tidings.embedded.database import Database
from tidings.worker import Worker

EVENTS = 100_000
SQL_EVENTS = 10_000
TOGETHER = 100
LOOK = 0.01
PATIENCE = 60.0
MOVE = "UPDATE customers SET total = total + ? WHERE name = ?"


def one_core() -> None:
    """From here on this process has one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def backlog(task: Task) -> None:
    """Fill the log that all rounds read, each in a group of its own."""
    path, count = log(task)
    if not path.exists():
        _fill(path, orders(count))


def log(task: Task) -> tuple[Path, int]:
    """Where the backlog is, and how many events it has."""
    return task.shared / "backlog.db", max(int(EVENTS * task.scale), 1000)


def _fill(path: Path, events: Sequence[OrderPlaced]) -> None:
    with contextlib.closing(Database(path)) as database:
        database.open()  # marks the file as one of ours
        raw.fill(path, events)
    os.sync()


async def handle_async(event: OrderPlaced) -> None:
    """Nothing."""


def handle_sync(event: OrderPlaced) -> None:
    """Nothing."""


def count_customers(event: OrderPlaced, db: sqlite3.Connection) -> OrderCounted:
    """One row of the user's own, and one event."""
    db.execute(MOVE, (event.total, event.customer))
    return OrderCounted(customer=event.customer, total=event.total)


def ours(task: Task, *, handler: Callable[..., Any]) -> Reading:
    """A worker of tidings, from its start until the backlog is settled."""
    path, count = log(task)
    return asyncio.run(_worked_off(path, count, handler))


async def _worked_off(path: Path, count: int, handler: Callable[..., Any]) -> Reading:
    one_core()
    app = App(f"bench{time.time_ns()}", f"sqlite:{path}")  # a new group: reads from the start
    app.on(OrderPlaced, start=Start.EARLIEST)(handler)
    async with app:
        (worker,) = await app.start()
        watch = Watch()
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(PATIENCE):
            await until_handled(worker, running, count)
        reading = watch.rate(count)
        await worker.drain(5.0)
        await asyncio.wait([running])
    return reading


async def until_handled(worker: Worker, running: asyncio.Task[None], count: int) -> None:
    """Wait until the worker has settled so many. Raises what it died of."""
    while worker.meter.handled < count:
        await asyncio.sleep(LOOK)
        if running.done():
            running.result()


def by_hand(task: Task, *, handler: Callable[[OrderPlaced], Any]) -> Reading:
    """SELECT a batch, decode, call, UPDATE the offset, COMMIT."""
    path, _ = log(task)
    one_core()
    connection = raw.connect(path)
    topic = raw.topic_id(connection, "order")
    connection.execute(raw.START)
    consume = _consume_async(connection, topic) if inspect.iscoroutinefunction(handler) else None
    watch = Watch()
    count = asyncio.run(consume) if consume is not None else _consume(connection, topic, handler)
    reading = watch.rate(count)
    connection.close()
    return reading


async def _consume_async(connection: sqlite3.Connection, topic: int) -> int:
    decode = msgspec.json.Decoder(OrderPlaced).decode
    pos = count = 0
    while rows := connection.execute(raw.SELECT, (topic, pos, raw.BATCH)).fetchall():
        for _, _, _, body in rows:
            await handle_async(decode(body))
        pos = rows[-1][0]
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(raw.OFFSET, (pos,))
        connection.execute("COMMIT")
        count += len(rows)
    return count


def _consume(connection: sqlite3.Connection, topic: int, handler: Callable[[OrderPlaced], Any]) -> int:
    decode = msgspec.json.Decoder(OrderPlaced).decode
    pos = count = 0
    while rows := connection.execute(raw.SELECT, (topic, pos, raw.BATCH)).fetchall():
        for _, _, _, body in rows:
            handler(decode(body))
        pos = rows[-1][0]
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(raw.OFFSET, (pos,))
        connection.execute("COMMIT")
        count += len(rows)
    return count


def customers(task: Task) -> tuple[Path, int]:
    """A log of this round's own, beside a table of the user."""
    path, count = task.folder / "work.db", max(int(SQL_EVENTS * task.scale), 1000)
    events = orders(count)
    _fill(path, events)
    connection = raw.connect(path)
    connection.execute("CREATE TABLE customers (name TEXT PRIMARY KEY, total REAL NOT NULL) WITHOUT ROWID")
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT OR IGNORE INTO customers VALUES (?, 0)", [(event.customer,) for event in events])
    connection.execute("COMMIT")
    connection.close()
    return path, count


def ours_sql(task: Task) -> Reading:
    """The handler's UPDATE, its event and the acknowledgement in one commit, 100 events at a time."""
    path, count = customers(task)
    return asyncio.run(_worked_off(path, count, count_customers))


def by_hand_sql(task: Task) -> Reading:
    """The same statements, 100 events a transaction."""
    path, _ = customers(task)
    one_core()
    connection = raw.connect(path)
    topic, out = raw.topic_id(connection, "order"), raw.topic_id(connection, "count")
    connection.execute(raw.START)
    decode = msgspec.json.Decoder(OrderPlaced).decode
    row = raw.Rows(out, "count.moved")
    pos = count = 0
    watch = Watch()
    while rows := connection.execute(raw.SELECT, (topic, pos, TOGETHER)).fetchall():
        connection.execute("BEGIN IMMEDIATE")
        told = []
        for _, _, _, body in rows:
            event = decode(body)
            connection.execute(MOVE, (event.total, event.customer))
            told.append(row(OrderCounted(customer=event.customer, total=event.total)))
        connection.executemany(raw.INSERT, told)
        pos = rows[-1][0]
        connection.execute(raw.OFFSET, (pos,))
        connection.execute("COMMIT")
        count += len(rows)
    reading = watch.rate(count)
    connection.close()
    return reading
