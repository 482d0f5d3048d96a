"""The app that moves: its handler books every sale, in the store. And somebody who sells all the time:

python -m tests.moving.shop FROM TO STORE

Publishes at FROM until it is told that the events are elsewhere, then at TO, one sale after the other of each key; says
on its output what is acknowledged, until its input ends.
"""

import asyncio
import sqlite3
import sys

from tests.moving.house import at
from tidings import App, Event, Start
from tidings.broker import Record
from tidings.errors import BrokerError, Moved

KEYS = 5
PAUSE = 0.01


class Sold(Event, name="sale.made", key="till"):
    till: str
    number: int


app = App("shop")


@app.on(Sold, start=Start.EARLIEST)
def book(sold: Sold, db: sqlite3.Connection) -> None:
    db.execute("INSERT INTO booked (till, number) VALUES (?, ?)", (sold.till, sold.number))


async def sell(url: str, store: str | None, number: int, over: asyncio.Event) -> int:
    """Sell until it is over, or the events have moved; returns the number of the next sale, which may be there."""
    async with at(url, store) as house:
        while not over.is_set():
            sales = [
                Record(
                    "sale", b'{"till":"t%d","number":%d}' % (till, number), f"t{till}", "sale.made", f"{till}-{number}"
                )
                for till in range(KEYS)
            ]
            try:
                await house.broker.publish(sales)
            except Moved:
                return number
            except BrokerError:
                await asyncio.sleep(0.05)
                continue
            print(number, flush=True)
            number += 1
            await asyncio.sleep(PAUSE)
    return number


async def main(source: str, target: str, store: str) -> None:
    over = asyncio.Event()

    async def listen() -> None:
        await asyncio.to_thread(sys.stdin.read)
        over.set()

    listening = asyncio.create_task(listen())
    number = await sell(source, None, 0, over)
    print("moved", flush=True)
    await sell(target, store, number, over)
    await listening


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
