"""A house that can be moved: a file with events, groups that have done some of them, retries and delays."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.cli.terminal import Result, finish
from tidings.broker import Record
from tidings.cli.target import connected
from tidings.connect import Connection
from tidings.errors import BrokerError

TOPICS = ["order", "stock"]
GROUPS = {"shop.ship": TOPICS, "shop.count": ["order"], "shop.new": ["order"]}
TRIED = "order-13"
PATIENCE = 60.0
AT = float(int(time.time()) - 3600)
"""When the first event was published: of late, or it would be removed."""

at = connected
"""`async with at(broker, store) as house`: a place that is open for as long as the block lasts."""


class Heard(NamedTuple):
    """What a group got: ids in their order, and the attempt of each."""

    ids: list[str]
    attempts: dict[str, int]


def record(number: int, topic: str = "order") -> Record:
    """One of five keys; every seventh has none."""
    key = None if number % 7 == 0 else f"k{number % 5}"
    headers = {"source": "shop", "note": f"n {number % 3} ä"}
    return Record(topic, b"\0\xff body %d" % number, key, f"{topic}.made", f"{topic}-{number}", AT + number, headers)


def records(count: int) -> list[Record]:
    return [record(number, topic) for number in range(count) for topic in TOPICS]


async def furnish(path: Path, count: int = 60) -> dict[str, list[str]]:
    """Fill the file; returns by group what it has not done, in the order of the log.

    `shop.ship` has done all, `shop.count` has done half, but not `order-13`, which failed once, nor what comes behind
    it with its key; `shop.new` has done nothing. One event is delayed.
    """
    all_records = records(count)
    async with at(f"sqlite:{path}?durable=no") as house:
        for group, topics in GROUPS.items():
            for topic in topics:
                await house.broker.declare(topic, [group])
        await house.broker.publish(all_records)
        await house.broker.publish([Record("order", b"later", "k1", "order.made", "later", AT, {}, time.time() + 3600)])
        ship = await house.broker.subscribe(TOPICS, "shop.ship")
        while lent := await ship.fetch(500, 0.05):
            await ship.ack(lent)
        count_half = await house.broker.subscribe(["order"], "shop.count")
        lent = await count_half.fetch(count // 2, 1.0)
        (failed,) = (each for each in lent if each.record.id == TRIED)
        await count_half.nack([failed])
        held = [each for each in lent if each.record.key == failed.record.key and each.receipt >= failed.receipt]
        await count_half.ack([each for each in lent if each not in held])
        done = {each.record.id for each in lent if each not in held}
    orders = [each.id for each in all_records if each.topic == "order"]
    return {"shop.ship": [], "shop.count": [id for id in orders if id not in done], "shop.new": orders}


async def heard(connection: Connection, group: str, count: int) -> Heard:
    """What a group has to do, which are so many events, and whatever comes right after them, done."""
    member = await connection.broker.subscribe(GROUPS[group], group)
    found = Heard([], {})
    async with asyncio.timeout(PATIENCE):
        while lent := await member.fetch(200, PATIENCE if len(found.ids) < count else 0.3):
            found.ids.extend(each.record.id for each in lent)
            found.attempts.update({each.record.id: each.attempt for each in lent})
            await member.ack(lent)
    await member.close()
    return found


def in_order(ids: list[str], wanted: list[str]) -> bool:
    """Whether these are the wanted ones, each once, and those of a key in their order."""
    keys = {each.id: each.key for each in records(200)}
    return sorted(ids) == sorted(wanted) and all(
        [id for id in ids if keys[id] == key] == [id for id in wanted if keys[id] == key]
        for key in keys.values()
        if key
    )


async def published(path: Path, number: int) -> str:
    """Publish one more event at the file; empty where it is kept, else what was said."""
    async with at(f"sqlite:{path}?durable=no") as house:
        try:
            await house.broker.publish([record(number)])
        except BrokerError as error:
            return str(error)
    return ""


def migrating(path: Path, url: str, *more: str, failpoint: str = "") -> "subprocess.Popen[bytes]":
    """The command in a process of its own, which dies or stands still at a failpoint."""
    command = [sys.executable, "-m", "tidings", "migrate", f"sqlite:{path}", url, *more]
    environment = {**os.environ, **({"TIDINGS_FAILPOINT": failpoint} if failpoint else {})}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def migrate(path: Path, url: str, *more: str, failpoint: str = "") -> Result:
    """The same, to its end."""
    return finish(migrating(path, url, *more, failpoint=failpoint), patience=3 * PATIENCE)


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()
