"""The embedded broker keeps the contract, in every place where it can live."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest

from tests.lifetime import kept_open
from tidings.broker import Broker, Feature, Lag, Record
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.config import Config
from tidings.embedded import wakeup, writer
from tidings.embedded.database import Database
from tidings.store import Store, Unit
from tidings.stores.sqlite import SqliteStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

CHECKS = contract.checks(SqliteBroker.features)
ACROSS_PROCESSES = [check for check in contract.checks(SqliteBroker.features, ["config"]) if check.wants]
LIMIT = 1 << 20
PLACES = ["file", "memory", "polling", "without-flock"]


class FastClock(Clock):
    """Runs faster than real time, so that leases and delays take less of it."""

    SPEED = 40.0

    def __init__(self) -> None:
        super().__init__()
        self._began = super().now()

    def now(self) -> float:
        return self._began + (super().now() - self._began) * self.SPEED

    def monotonic(self) -> float:
        return super().monotonic() * self.SPEED

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / self.SPEED)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        return await super().wait(event, seconds / self.SPEED)


class Place:
    """A file on which connections are opened. `lease` in seconds of its clock: real ones have to be long enough."""

    def __init__(
        self, database: Database, lease: float, kind: type[SqliteBroker] = SqliteBroker, clock: Clock | None = None
    ) -> None:
        self.database = database
        self.kind = kind
        self.clock = clock or FastClock()
        self.lease = lease

    def connect(self) -> AbstractAsyncContextManager[Broker]:
        return kept_open(self.kind(self.database, self.clock, lease=self.lease, keep=float("inf"), limit=LIMIT))

    def store(self, broker: Broker) -> AbstractAsyncContextManager[Store]:
        assert isinstance(broker, SqliteBroker)
        return kept_open(SqliteStore(self.database, lambda: broker.writer))

    async def silence(self, broker: Broker) -> None:
        """What it lends and renews comes from its housekeeping: without that it is as good as dead."""
        assert isinstance(broker, SqliteBroker)
        broker._housekeeper.cancel()

    def server(self, config: Config | None = None) -> Server:
        return Server(
            connect=self.connect, clock=self.clock, lease=self.lease, silence=self.silence, store=self.store,
            delay=5.0, largest=LIMIT, too_large=LIMIT + 1, config=config,
        )  # fmt: skip


@contextlib.contextmanager
def opened(database: Database) -> Generator[Database]:
    """It stays while connections come and go."""
    database.open()
    try:
        yield database
    finally:
        database.close()


@pytest.fixture(params=PLACES)
async def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    if request.param == "polling":
        monkeypatch.setattr(wakeup, "watch", lambda path: None)
    if request.param == "without-flock":
        monkeypatch.setattr(writer, "fcntl", None)
    if request.param == "file":
        yield Place(Database(tmp_path / "tidings.db"), lease=60.0).server()
        return
    with opened(Database(":memory:")) as database:
        yield Place(database, lease=24.0).server()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_the_contract(check: Check, server: Server) -> None:
    await check.run(server)


@pytest.mark.parametrize(
    "check",
    ACROSS_PROCESSES,
    ids=lambda check: check.name,
)
async def test_the_contract_across_processes(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "tidings.db"
    place = Place(Database(path), lease=3.0, clock=Clock())
    await check.run(place.server(Config(broker=f"sqlite:{path}", lease=3.0, keep=float("inf"))))


class Doubling(SqliteBroker):
    async def publish(self, records: Sequence[Record], tx: Unit | None = None) -> None:
        again = [msgspec.structs.replace(record, id=f"{record.id} again") for record in records]
        await super().publish([*records, *again], tx)


class Overtaking(SqliteBroker):
    async def publish(self, records: Sequence[Record], tx: Unit | None = None) -> None:
        await super().publish(records[::-1], tx)


class Dropping(SqliteBroker):
    async def publish(self, records: Sequence[Record], tx: Unit | None = None) -> None:
        await super().publish([msgspec.structs.replace(record, headers={}) for record in records], tx)


class Giving(SqliteBroker):
    async def lag(self, topic: str, group: str) -> Lag:
        lag = await super().lag(topic, group)
        return Lag(lag.waiting or 0, lag.oldest)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Doubling, "an_id_is_kept_once"),
        (Overtaking, "many_at_once_arrive_in_order"),
        (Dropping, "headers_arrive_as_they_were"),
        (Giving, "the_lag_counts_what_is_not_acknowledged"),
    ],
)
async def test_the_suite_finds_a_broker_that_breaks_a_promise(kind: type[SqliteBroker], name: str) -> None:
    @contextlib.asynccontextmanager
    async def make() -> AsyncGenerator[Server]:
        with opened(Database(":memory:")) as database:
            yield Place(database, lease=24.0, kind=kind).server()

    report = await contract.run(make, SqliteBroker.features, names=[name])
    assert [result.check.name for result in report.broken] == [name]
    assert not report.kept
    assert name in str(report)
    assert (await contract.run(make, SqliteBroker.features, names=["publishing_nothing_is_nothing"])).kept


def test_a_check_is_left_out_only_for_a_feature_that_is_not_claimed() -> None:
    durable = {check.name for check in contract.checks(Feature.DURABLE)}
    assert "what_fails_undoes_all" not in durable
    assert "what_is_acknowledged_is_never_lent_again" in durable
    assert all(check.promise for check in CHECKS)
