"""The service under test: handlers of every kind, whose effects can be counted, and which fail now and then.

Effects go to a table of the user's own, without a unique constraint, so that a duplicate shows. Every start of a
handler is a line in a file, written outside of any transaction.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from tidings import App, Delivery, Event, Retry, Start, Tx, failpoint
from tidings.chaos.books import Effect
from tidings.chaos.plan import NOTED, RETURNED, SOLD, Happening, Plan, fails
from tidings.chaos.site import Site

AGAIN = Retry(times=8, first=0.02, factor=1.5, most=0.2, at_once=1)
TALLY, SHARED = "tally", "shared"
"""A Table, and a row of it that all processes write to, so that their transactions conflict."""
BLOCK = 10_000
"""So many numbers come to one row: it is written whole, so it must not grow for ever."""

NAME = "chaos"
ACCOUNTS = {
    SOLD: ("book", "tally", "shipped"),
    RETURNED: ("book", "tally", "printed", "hear"),
    NOTED: ("note",),
}
"""In which accounts an event of each kind has to have its effect. `hear` leaves only the line of its start."""
HEARS = {
    "book": ("sale",), "tally": ("sale",), "relay": ("sale",), "press": ("sale",), "hear": ("sale",),
    "note": ("note",), "arrive": ("shipment", "label"),
}  # fmt: skip
"""The topics of each handler."""
BY_TYPE = {"shipment.shipped": "shipped", "label.printed": "printed"}
BY_HANDLER = {f"{NAME}.relay": "shipped", f"{NAME}.press": "printed"}

AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Any])


class Sold(Event, name="sale.sold", key="key"):
    """A sale."""

    number: int
    key: str


class Returned(Event, name="sale.returned", key="key"):
    """A sale that was undone."""

    number: int
    key: str


class Noted(Event, name="note.noted"):
    """Without a key: in no order."""

    number: int


class Shipped(Event, name="shipment.shipped", key="key"):
    """What `relay` makes of a sale."""

    number: int
    key: str


class Printed(Event, name="label.printed", key="key"):
    """What `press` makes of a return."""

    number: int
    key: str


class Failed(Exception):
    """A handler fails, as planned."""


def message_of(what: Happening) -> Event:
    """What is published."""
    if what.kind == NOTED:
        return Noted(number=what.number)
    return (Sold if what.kind == SOLD else Returned)(number=what.number, key=what.key)


def account_of(handler: str, type: str) -> str:
    """The account in which an event that died in this handler has no effect."""
    return BY_HANDLER.get(handler) or BY_TYPE.get(type) or handler.removeprefix(f"{NAME}.")


def shared(number: int) -> bool:
    """Whether the row that all share hears of this one."""
    return number % 10 == 0


def row_of(key: str, number: int) -> str:
    """The row of the tally for this key and number."""
    return f"{key}/{number // BLOCK}"


def build(plan: Plan, folder: Path, site: Site) -> App:
    """The app. `folder` is where starts are noted."""
    app = App(NAME)
    started = starts(folder)
    _write(app, site, started)
    _publish(app, started)

    @app.on(Returned, start=Start.EARLIEST)
    async def hear(returned: Returned) -> None:
        started("hear", returned.number)

    return app


def _write(app: App, site: Site, started: Callable[[str, int], None]) -> None:
    """Handlers that write: in the user's own tables, in a Table, one by one and in batches."""
    tallies = app.table(TALLY, list[int])

    def record(db: Any, account: str, number: int, key: str = "") -> None:
        started(account, number)
        site.books.record(db, Effect(account, number, key, os.getpid(), time.monotonic()))

    @app.on(Sold, Returned, retry=AGAIN, start=Start.EARLIEST)
    @asking_for(site.books.connection)
    def book(sale: Sold | Returned, db: Any, delivery: Delivery) -> None:
        record(db, "book", sale.number, sale.key)
        failpoint.hit("in_handler")
        fail("book", sale.number, delivery.attempt)

    @app.on(Sold, Returned, retry=AGAIN, start=Start.EARLIEST)
    async def tally(sale: Sold | Returned, tx: Tx, delivery: Delivery) -> None:
        started("tally", sale.number)
        for key in (sale.key, SHARED) if shared(sale.number) else (sale.key,):
            row = row_of(key, sale.number)
            tx.put(tallies, row, [*await tx.get(tallies, row, []), sale.number])
        fail("tally", sale.number, delivery.attempt)

    @app.on(Noted, batch=20, start=Start.EARLIEST)
    @asking_for(site.books.connection)
    def note(notes: list[Noted], db: Any) -> None:
        for noted in notes:
            record(db, "note", noted.number)

    @app.on(Shipped, Printed, start=Start.EARLIEST)
    @asking_for(site.books.connection)
    def arrive(arrived: Shipped | Printed, db: Any) -> None:
        record(db, "shipped" if isinstance(arrived, Shipped) else "printed", arrived.number, arrived.key)


def _publish(app: App, started: Callable[[str, int], None]) -> None:
    """Handlers that publish, and fail after they have."""

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


def asking_for(connection: type) -> Callable[[AnyHandler], AnyHandler]:
    """The parameter `db` is what the site's database lends to handlers."""

    def annotate(handler: AnyHandler) -> AnyHandler:
        handler.__annotations__["db"] = connection
        return handler

    return annotate


def starts(folder: Path) -> Callable[[str, int], None]:
    """Remember that a handler was started: one line, appended at once."""
    file = os.open(folder / "starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def started(account: str, number: int) -> None:
        os.write(file, f"{account} {number}\n".encode())

    return started


def fail(handler: str, number: int, attempt: int) -> None:
    """Fail where the plan says so."""
    if fails(handler, number, attempt):
        raise Failed(f"{handler} fails with {number}")
