"""Several apps in one process."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tidings import App, Event
from tidings.broker import Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import Connection
from tidings.embedded.database import Database
from tidings.embedded.group import Group
from tidings.embedded.view import View
from tidings.errors import BrokerError, Unreachable
from tidings.runtime import Runtime
from tidings.stores.sqlite import SqliteStore


class Posted(Event, name="post.posted"):
    body: str


async def test_apps_that_share_a_connection_each_keep_their_own_limit_of_a_body() -> None:
    small, large = App("small", body_limit=100), App("large", body_limit=1000)
    runtime = Runtime([small, large])
    await runtime.open()
    try:
        await large.publish(Posted(body="x" * 500))
    finally:
        await runtime.close()


class Absent(SqliteBroker):
    """A broker that is not there at first."""

    looks = 0

    async def open(self) -> None:
        Absent.looks += 1
        if Absent.looks < 3:
            raise Unreachable("nobody is there")
        await super().open()


@pytest.fixture
def absent(tmp_path: Path) -> Callable[[Config, Clock], Connection]:
    database = Database(tmp_path / "tidings.db")

    def connecting(config: Config, clock: Clock) -> Connection:
        broker = Absent(database, clock)
        return Connection(broker, SqliteStore(database, lambda: broker.writer))

    Absent.looks = 0
    return connecting


class Impatient(Clock):
    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.01))


async def test_a_worker_waits_for_a_broker_that_is_not_there_yet(
    absent: Callable[[Config, Clock], Connection], caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Runtime([App("shop", clock=Impatient())], connecting=absent)
    await runtime.open()
    await runtime.close()
    assert Absent.looks == 3
    assert "waits for its broker: nobody is there" in caplog.text


async def test_it_fails_fast_where_that_is_asked_for(absent: Callable[[Config, Clock], Connection]) -> None:
    runtime = Runtime([App("shop", clock=Impatient())], connecting=absent, fail_fast=True)
    with pytest.raises(Unreachable):
        await runtime.open()
    assert Absent.looks == 1


class Together(SqliteBroker):
    """A broker that lets nobody into a group before all of them have asked; it refuses the group `shop.stranger`."""

    async def open(self) -> None:
        self.asking = asyncio.Barrier(3)
        await super().open()

    async def subscribe(
        self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST
    ) -> Group | View:
        if group == "shop.stranger":
            raise BrokerError("it may not")
        await self.asking.wait()
        return await super().subscribe(topics, group, start)


@pytest.fixture
def together(tmp_path: Path) -> Callable[[Config, Clock], Connection]:
    def connecting(config: Config, clock: Clock) -> Connection:
        database = Database(tmp_path / "tidings.db")
        broker = Together(database, clock)
        return Connection(broker, SqliteStore(database, lambda: broker.writer))

    return connecting


def app_of(name: str, *handlers: str) -> App:
    app = App(name)
    for handler in handlers:

        @app.on(Posted, name=handler)
        async def handle(posted: Posted) -> None: ...

    return app


async def test_the_groups_of_all_apps_are_joined_at_the_same_time(
    together: Callable[[Config, Clock], Connection],
) -> None:
    runtime = Runtime([app_of("shop", "one", "two"), app_of("post", "one")], connecting=together)
    await runtime.open()
    assert [worker.bound.name for worker in runtime.workers] == ["shop.one", "shop.two", "post.one"]
    await runtime.close()


async def test_a_group_that_cannot_be_joined_ends_the_waiting_of_the_others(
    together: Callable[[Config, Clock], Connection],
) -> None:
    runtime = Runtime([app_of("shop", "one", "stranger"), app_of("post", "one")], connecting=together)
    before = asyncio.all_tasks()
    with pytest.raises(BrokerError, match="it may not"):
        await runtime.open()
    await runtime.close()
    assert asyncio.all_tasks() == before
