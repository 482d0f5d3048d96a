"""The service with a handler that is wrong on purpose in the place of `book`: whether a run finds it out."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from tidings import App, Start
from tidings.chaos.books import Effect
from tidings.chaos.plan import Plan
from tidings.chaos.service import Returned, Sold, build
from tidings.chaos.site import Site

DROPPED = 50
"""Every so many-th event has no effect."""


def effect(sale: Sold | Returned) -> Effect:
    return Effect("book", sale.number, sale.key, os.getpid(), time.monotonic())


def drops(plan: Plan, folder: Path, site: Site) -> App:
    def book(sale: Sold | Returned, db: sqlite3.Connection) -> None:
        if sale.number % DROPPED:
            site.books.record(db, effect(sale))

    return with_book(build(plan, folder, site), book)


def outside(plan: Plan, folder: Path, site: Site) -> App:
    """Its effect is not in the transaction, and the process dies after one."""

    async def book(sale: Sold | Returned) -> None:
        with contextlib.closing(sqlite3.connect(folder / "tidings.db", isolation_level=None)) as db:
            db.execute("PRAGMA wal_autocheckpoint=0")
            site.books.record(db, effect(sale))
        if sale.number > DROPPED and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return with_book(build(plan, folder, site), book)


def with_book(app: App, book: Callable[..., object]) -> App:
    del app.handlers["chaos.book"]
    app.on(Sold, Returned, name="book", start=Start.EARLIEST)(book)
    return app
