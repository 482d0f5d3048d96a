"""The service under test: handlers of every kind, whose effects can be counted, and which fail now and then.

Effects go to a table of the user's own, without a unique constraint, so that a duplicate shows. Every start of a
handler is a line in a file, written outside of any transaction.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.crash.plan import Plan, fails
from tidings import App, Delivery, Event, Retry, Start, Tx, failpoint

EFFECTS = """CREATE TABLE effects (place INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL,
    number INTEGER NOT NULL, key TEXT NOT NULL, pid INTEGER NOT NULL, attempt INTEGER NOT NULL, at REAL NOT NULL)"""
EFFECT = "INSERT INTO effects (account, number, key, pid, attempt, at) VALUES (?, ?, ?, ?, ?, ?)"
AGAIN = Retry(times=8, first=0.02, factor=1.5, most=0.2, at_once=1)
SHARED = "shared"
"""A row of the tally that all processes write to, so that their transactions conflict."""


class Sold(Event, name="sale.sold", key="key"):
    number: int
    key: str


class Returned(Event, name="sale.returned", key="key"):
    number: int
    key: str


class Noted(Event, name="note.noted"):
    number: int


class Shipped(Event, name="shipment.shipped", key="key"):
    number: int
    key: str


class Printed(Event, name="label.printed", key="key"):
    number: int
    key: str


class Failed(Exception):
    """A handler fails, as planned."""


def shared(number: int) -> bool:
    return number % 10 == 0


def build(plan: Plan, folder: Path) -> App:
    app = App("crash")
    tallies = app.table("tally", list[int])
    started = starts(folder)

    @app.on(Sold, Returned, retry=AGAIN, start=Start.EARLIEST)
    def book(sale: Sold | Returned, db: sqlite3.Connection, delivery: Delivery) -> None:
        started("book", sale.number)
        record(db, "book", sale, delivery.attempt)
        failpoint.hit("in_handler")
        fail("book", sale.number, delivery.attempt)

    @app.on(Sold, Returned, retry=AGAIN, start=Start.EARLIEST)
    async def tally(sale: Sold | Returned, tx: Tx, delivery: Delivery) -> None:
        started("tally", sale.number)
        for row in (sale.key, SHARED) if shared(sale.number) else (sale.key,):
            tx.put(tallies, row, [*await tx.get(tallies, row, []), sale.number])
        fail("tally", sale.number, delivery.attempt)

    @app.on(Sold, retry=AGAIN, start=Start.EARLIEST)
    async def relay(sold: Sold, delivery: Delivery) -> AsyncIterator[Shipped]:
        started("relay", sold.number)
        yield Shipped(number=sold.number, key=sold.key)
        fail("relay", sold.number, delivery.attempt)

    @app.on(Returned, retry=AGAIN, start=Start.EARLIEST)
    def press(returned: Returned, delivery: Delivery) -> Printed:
        started("press", returned.number)
        fail("press", returned.number, delivery.attempt)
        return Printed(number=returned.number, key=returned.key)

    @app.on(Returned, start=Start.EARLIEST)
    async def hear(returned: Returned) -> None:
        started("hear", returned.number)

    @app.on(Noted, batch=20, start=Start.EARLIEST)
    def note(notes: list[Noted], db: sqlite3.Connection) -> None:
        for noted in notes:
            started("note", noted.number)
            record(db, "note", noted, 0)

    @app.on(Shipped, Printed, start=Start.EARLIEST)
    def arrive(arrived: Shipped | Printed, db: sqlite3.Connection, delivery: Delivery) -> None:
        account = "shipped" if isinstance(arrived, Shipped) else "printed"
        started(account, arrived.number)
        record(db, account, arrived, delivery.attempt)

    if plan.bug:
        plant(app, plan.bug, folder)
    return app


def starts(folder: Path) -> Callable[[str, int], None]:
    """Remember that a handler was started: one line, appended at once."""
    file = os.open(folder / "starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    pid = os.getpid()

    def started(account: str, number: int) -> None:
        os.write(file, f"{account} {number} {pid}\n".encode())

    return started


def record(
    db: sqlite3.Connection, account: str, event: Sold | Returned | Noted | Shipped | Printed, attempt: int
) -> None:
    key = "" if isinstance(event, Noted) else event.key
    db.execute(EFFECT, (account, event.number, key, os.getpid(), attempt, time.monotonic()))


def fail(handler: str, number: int, attempt: int) -> None:
    if fails(handler, number, attempt):
        raise Failed(f"{handler} fails with {number}")


def plant(app: App, bug: str, folder: Path) -> None:
    """Put a handler that is wrong in the place of `book`."""
    del app.handlers["crash.book"]

    def drops(sale: Sold | Returned, db: sqlite3.Connection) -> None:
        if sale.number % 50:
            record(db, "book", sale, 0)

    async def outside(sale: Sold | Returned) -> None:
        with contextlib.closing(sqlite3.connect(folder / "tidings.db", isolation_level=None)) as db:
            db.execute("PRAGMA wal_autocheckpoint=0")
            record(db, "book", sale, 0)
        if sale.number > 50 and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    handlers: dict[str, Callable[..., object]] = {"drops": drops, "outside": outside}
    app.on(Sold, Returned, name="book", start=Start.EARLIEST)(handlers[bug])
