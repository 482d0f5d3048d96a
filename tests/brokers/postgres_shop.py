"""An app on PostgreSQL, as a program that can be killed.

    python -m tests.brokers.postgres_shop URL [--dies-of NUMBER]

Every effect is a row of a table of its own, in the transaction that settles the event: one too many shows.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from tidings import App, Event, Tx
from tidings.runtime import serve

TABLES = """
CREATE TABLE booked (seq serial, number int, key text);
CREATE TABLE shipped (number int);
CREATE TABLE audited (number int);
"""


class Ordered(Event, name="order.placed", version="1.0", key="customer"):
    customer: str
    number: int


class Counted(Event, name="count.changed", version="1.0", key="customer"):
    customer: str
    number: int
    count: int


def shop(url: str, dies_of: int | None = None) -> App:
    app = App("shop", broker=f"{url}?lease=2")
    counts = app.table("counts", int)

    @app.on(Ordered, concurrency=4)
    async def count(order: Ordered, tx: Tx) -> AsyncIterator[Counted]:
        number = await tx.get(counts, order.customer, default=0) + 1
        total = await tx.get(counts, "all", default=0) + 1
        tx.put(counts, order.customer, number)
        tx.put(counts, "all", total)
        yield Counted(customer=order.customer, number=order.number, count=number)

    @app.on(Ordered)
    def book(order: Ordered, db: psycopg.Connection) -> None:
        if order.number == dies_of:
            os.kill(os.getpid(), signal.SIGKILL)
        db.execute("INSERT INTO booked (number, key) VALUES (%s, %s)", (order.number, order.customer))

    @app.on(Counted)
    def ship(counted: Counted, db: psycopg.Connection) -> None:
        db.execute("INSERT INTO shipped (number) VALUES (%s)", (counted.number,))

    @app.on(Counted)
    def audit(counted: Counted, session: Session) -> None:
        session.execute(text("INSERT INTO audited (number) VALUES (:number)"), {"number": counted.number})

    return app


if __name__ == "__main__":
    sys.exit(asyncio.run(serve([shop(sys.argv[1], int(sys.argv[3]) if len(sys.argv) > 3 else None)])))
