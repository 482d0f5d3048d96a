"""A copy is restored beside the side files of the newer file that it replaces."""

import asyncio
import sqlite3
from pathlib import Path

from tidings.broker import Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database


def record(number: int) -> Record:
    return Record("t", b"", "k", "t", f"r{number}")


def copied(path: Path, copy: Path) -> None:
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        target.execute("UPDATE tidings_member SET process = 'an-earlier-boot/1/1/x'")
    source.close()
    target.close()


async def test_what_is_published_after_a_copy_was_restored_is_delivered(tmp_path: Path) -> None:
    """How far the newer file had been lent says nothing about the copy: it once hid what got those places anew."""
    path = tmp_path / "tidings.db"
    broker = SqliteBroker(Database(path), Clock())
    await broker.open()
    member = await broker.subscribe(["t"], "g", Start.EARLIEST)
    await broker.publish([record(1)])
    await member.fetch(10, 1.0)
    copied(path, tmp_path / "copy.db")
    await broker.publish([record(number) for number in (2, 3, 4)])
    await member.ack(await member.fetch(10, 1.0))
    await broker.close()
    (tmp_path / "copy.db").rename(path)

    broker = SqliteBroker(Database(path), Clock())
    await broker.open()
    member = await broker.subscribe(["t"], "g", Start.EARLIEST)
    seen: list[str] = []
    async with asyncio.timeout(60):
        while "r1" not in seen:  # the dead member is buried
            lent = await member.fetch(10, 1.0)
            seen += [delivery.record.id for delivery in lent]
            await member.ack(lent)
    await broker.publish([record(5)])
    assert [delivery.record.id for delivery in await member.fetch(10, 20.0)] == ["r5"]
    await broker.close()
