"""An app on a link and a store: each effect once, whatever comes twice, and what it publishes after its commit."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.brokers.embedded_link import EmbeddedLink
from tidings import App, Event, HandlerDefinitionError, Retry, Tx
from tidings.broker import Broker, Delivery, Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import Connection
from tidings.embedded.database import Database
from tidings.errors import NoStore, PublishFailed
from tidings.link import Line
from tidings.linked import Linked
from tidings.storeless import Storeless
from tidings.stores.sqlite import SqliteStore


class Placed(Event, name="order.placed", key="order"):
    order: str
    number: int


class Booked(Event, name="booking.made", key="order"):
    order: str
    number: int


class DoublingLine:
    """Brings what was published twice under the id that it has."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.done = line.done
        self.close = line.close

    async def fetch(self, limit: int, wait: float) -> Sequence[Delivery]:
        lent = await self._line.fetch(limit, wait)
        return [replace(each, record=replace(each.record, id=each.record.id.removesuffix("#2"))) for each in lent]


class FlakyLink(EmbeddedLink):
    """Refuses to publish while it is down, as a server that cannot be reached; keeps everything twice on demand."""

    down = False
    doubling = False

    async def publish(self, records: Sequence[Record]) -> None:
        if self.down:
            raise PublishFailed("the server cannot be reached", [record.id for record in records])
        again = [replace(record, id=f"{record.id}#2") for record in records] if self.doubling else []
        await super().publish([*records, *again])

    async def join(self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST) -> Line:
        return DoublingLine(await super().join(topics, group, start))


class Site:
    """A log and a store in files, to which connections are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.links: list[FlakyLink] = []

    @contextlib.asynccontextmanager
    async def connected(self, *, keeps: bool = True, lease: float = 5.0) -> AsyncGenerator[Connection]:
        link = FlakyLink(SqliteBroker(Database(self.folder / "log.db"), self.clock, lease=lease))
        self.links.append(link)
        store = SqliteStore(Database(self.folder / "store.db")) if keeps else Storeless()
        connection = Connection(Linked(link, store, self.clock, lease=lease), store)
        await connection.open()
        try:
            yield connection
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def running(self, app: App, connection: Connection) -> AsyncGenerator[None]:
        await app.open(connection, load())
        workers = await app.start()
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            yield
        finally:
            await asyncio.gather(*(worker.drain(5.0) for worker in workers))
            await asyncio.wait(tasks)
            await app.close()

    def count(self, table: str) -> int:
        with contextlib.closing(sqlite3.connect(self.folder / "store.db")) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def until(true: Any, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for is in files
            await asyncio.sleep(0.01)


async def drained(broker: Broker, topic: str, group: str) -> None:
    async with asyncio.timeout(60):
        while (await broker.lag(topic, group)).waiting:  # noqa: ASYNC110 - in files, too
            await asyncio.sleep(0.01)


def shop(seen: list[tuple[str, int]]) -> App:
    app = App("shop")
    numbers = app.table("numbers", int)

    @app.on(Placed)
    async def book(order: Placed, tx: Tx) -> AsyncIterator[Booked]:
        tx.put(numbers, order.order, order.number + await tx.get(numbers, order.order, 0))
        yield Booked(order=order.order, number=order.number)

    @app.on(Booked)
    async def tell(booked: Booked) -> None:
        seen.append((booked.order, booked.number))

    return app


async def test_state_messages_and_acknowledgement_are_one(site: Site) -> None:
    seen: list[tuple[str, int]] = []
    app = shop(seen)
    async with site.connected() as connection, site.running(app, connection):
        await app.publish(*(Placed(order=f"o{n % 7}", number=n) for n in range(200)))
        await until(lambda: len(seen) == 200)
        for key in range(7):
            assert [n for order, n in seen if order == f"o{key}"] == list(range(key, 200, 7))
        tx = connection.store.begin()
        assert await tx.get(app.table("numbers", int), "o3") == sum(range(3, 200, 7))
        connection.store.discard(tx)
        await until(lambda: site.count("tidings_outbox") == 0)
    assert site.count("tidings_inbox WHERE done = 1") == 400


async def test_what_is_published_twice_is_handled_once(site: Site) -> None:
    seen: list[tuple[str, int]] = []
    app = shop(seen)
    async with site.connected() as connection, site.running(app, connection):
        site.links[0].doubling = True
        await app.publish(*(Placed(order=f"o{n % 3}", number=n) for n in range(50)))
        await until(lambda: len(seen) == 50)
        assert isinstance(connection.broker, Linked)
        for topic, group in (("order", "shop.book"), ("booking", "shop.tell")):
            await drained(connection.broker, topic, group)
    assert len(seen) == len(set(seen)) == 50


async def test_while_the_server_is_away_the_outbox_keeps_what_was_told_and_its_order(site: Site) -> None:
    seen: list[tuple[str, int]] = []
    app = shop(seen)
    async with site.connected() as connection, site.running(app, connection):
        await app.publish(*(Placed(order="o", number=n) for n in range(10)))
        await until(lambda: len(seen) == 10)
        site.links[0].down = True
        async with app.transaction() as transaction:
            for n in range(10, 20):
                transaction.publish(Booked(order="o", number=n))
        await asyncio.sleep(0.1)
        assert len(seen) == 10
        assert site.count("tidings_outbox") == 10
        site.links[0].down = False
        await until(lambda: len(seen) == 20)
    assert [number for _, number in seen] == list(range(20))


async def test_another_process_publishes_what_one_left_behind(site: Site) -> None:
    seen: list[tuple[str, int]] = []
    app = shop(seen)
    async with site.connected(lease=0.5) as connection:
        await app.open(connection, load())
        await connection.broker.declare("booking", ["shop.tell"])
        site.links[0].down = True
        async with app.transaction() as transaction:
            transaction.publish(Booked(order="o", number=1))
        assert isinstance(connection.broker, Linked)
        assert connection.broker.outbox is not None
        await connection.broker.outbox.close(0.0)  # as good as dead: it still has the lease
        await app.close()
    with contextlib.closing(sqlite3.connect(site.folder / "store.db")) as rows:
        ((owner, ends),) = rows.execute("SELECT owner, until FROM tidings_relay").fetchall()
    assert owner is not None
    assert ends < site.clock.now() + 1.0
    app = shop(seen)
    async with site.connected() as connection, site.running(app, connection):
        await until(lambda: seen == [("o", 1)])


async def test_a_failure_holds_back_its_key_and_its_attempts_are_kept(site: Site) -> None:
    tries: list[int] = []
    order: list[int] = []
    app = App("shop")

    @app.on(Placed, retry=Retry(times=4, at_once=0, first=0.01))
    async def handle(placed: Placed) -> None:
        order.append(placed.number)
        if placed.number == 1 and len(tries) < 2:
            tries.append(placed.number)
            raise ValueError("not yet")

    async with site.connected() as connection, site.running(app, connection):
        await app.publish(*(Placed(order="o", number=n) for n in range(4)))
        await until(lambda: order[-1:] == [3])
    assert order == [0, 1, 1, 1, 2, 3]


async def test_without_a_store_handlers_publish_before_they_acknowledge(site: Site) -> None:
    seen: list[int] = []
    app = App("shop")

    @app.on(Placed)
    async def book(placed: Placed) -> Booked:
        return Booked(order=placed.order, number=placed.number)

    @app.on(Booked)
    async def tell(booked: Booked) -> None:
        seen.append(booked.number)

    async with site.connected(keeps=False) as connection, site.running(app, connection):
        await app.publish(*(Placed(order="o", number=n) for n in range(50)))
        await until(lambda: len(seen) == 50)
        await drained(connection.broker, "order", "shop.book")
    assert seen == list(range(50))


async def test_what_needs_a_store_is_refused_where_there_is_none(site: Site) -> None:
    app = shop([])
    async with site.connected(keeps=False) as connection:
        await app.open(connection, load())
        with pytest.raises(HandlerDefinitionError, match="Tx needs a store beside this broker"):
            await app.start()
        with pytest.raises(NoStore, match="--store"):
            await app.publish(Placed(order="o", number=1), delay=60.0)
        with pytest.raises(NoStore, match="--store"):
            async with app.transaction():
                pass
        await app.close()


async def test_a_delay_is_kept_in_the_store(site: Site) -> None:
    seen: list[tuple[str, int]] = []
    app = shop(seen)
    async with site.connected() as connection:
        await app.open(connection, load())
        await connection.broker.declare("booking", ["shop.tell"])
        await app.publish(Booked(order="o", number=1), delay=0.3)
        due = asyncio.get_running_loop().time() + 0.3
        await app.close()
    app = shop(seen)
    async with site.connected() as connection, site.running(app, connection):
        await until(lambda: bool(seen))
        assert asyncio.get_running_loop().time() >= due - 0.01
