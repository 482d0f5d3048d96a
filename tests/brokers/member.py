"""A member of a group in a process of its own: says on its output what it is lent, and what came of settling it.

    python -m tests.brokers.member FILE [--lease S] [--hold S] [--dies-of ID] [--keeps N]

Each effect is a row of the table `effects`, in the transaction of the acknowledgement. `--hold`: seconds for one
record. `--dies-of`: the record that kills the process. `--keeps`: settles nothing after so many records until a line
comes on its input, then all it has.
"""

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from tidings.broker import Broker, Delivery, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database
from tidings.errors import Fenced
from tidings.stores.sqlite import SqliteStore

TOPIC, GROUP = "t", "g"


def tell(*words: object) -> None:
    print(*words, flush=True)


class Member:
    def __init__(self, store: SqliteStore, group: Subscription) -> None:
        self.store = store
        self.group = group

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        def effects(connection: sqlite3.Connection) -> None:
            rows = [(delivery.record.id, os.getpid()) for delivery in deliveries]
            connection.executemany("INSERT INTO effects VALUES (?, ?)", rows)

        unit = self.store.unit()
        unit.add(effects)
        await self.group.ack(deliveries, tx=unit)
        try:
            await unit.commit()
        except Fenced:
            tell("fenced", len(deliveries))
        else:
            tell("settled", len(deliveries))

    async def fetch(self) -> Sequence[Delivery]:
        try:
            lent = await self.group.fetch(20, 1.0)
        except Fenced:
            return []
        for delivery in lent:
            tell("lent", delivery.record.id, delivery.attempt)
        return lent


async def run(options: argparse.Namespace, broker: Broker, member: Member) -> None:
    kept: list[Delivery] = []
    while True:
        for delivery in await member.fetch():
            if delivery.record.id == options.dies_of:
                os.kill(os.getpid(), signal.SIGKILL)
            if options.keeps is not None:
                kept.append(delivery)
                continue
            await asyncio.sleep(options.hold)
            await member.settle([delivery])
        if kept and len(kept) >= options.keeps:
            tell("kept", len(kept))
            await asyncio.to_thread(sys.stdin.readline)
            await member.settle(kept)
            kept, options.keeps = [], None


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--lease", type=float, default=30.0)
    parser.add_argument("--hold", type=float, default=0.0)
    parser.add_argument("--dies-of")
    parser.add_argument("--keeps", type=int)
    options = parser.parse_args()
    database = Database(options.file, durable=False)
    broker = SqliteBroker(database, Clock(), lease=options.lease)
    await broker.open()
    store = SqliteStore(database, lambda: broker.writer)
    await store.open()
    group = await broker.subscribe([TOPIC], GROUP)
    tell("joined")
    try:
        await run(options, broker, Member(store, group))
    finally:
        await store.close()
        await broker.close()


if __name__ == "__main__":
    asyncio.run(main())
