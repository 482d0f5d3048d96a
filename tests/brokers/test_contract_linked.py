"""What the engine adds to a link keeps the contract: with a store all of it, without one all but what needs one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.embedded_link import EmbeddedLink
from tests.brokers.linked_site import NOTHING, Beside, LinkedSite, with_a_store
from tests.brokers.test_contract_sqlite import FastClock
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database
from tidings.pg.database import Database as Postgres
from tidings.store import Store
from tidings.stores.postgres import PostgresStore
from tidings.testing import contract
from tidings.testing.contract import Check, Server

WITHOUT = contract.checks(EmbeddedLink.features)
WITH = with_a_store(EmbeddedLink.features)


async def silence(link: EmbeddedLink) -> None:
    """What it lends and renews comes from its housekeeping: without that it is as good as dead."""
    link.broker._housekeeper.cancel()


def site(folder: Path, store: Callable[[], Store], delay: float = 10.0) -> Server:
    clock = FastClock()
    log = Database(folder / "log.db", durable=False)

    def link() -> EmbeddedLink:
        return EmbeddedLink(SqliteBroker(log, clock, lease=60.0, keep=float("inf")))

    return LinkedSite(link, store, silence, clock=clock, lease=60.0, delay=delay).server()


@pytest.mark.parametrize("check", WITHOUT, ids=lambda check: check.name)
async def test_the_contract_without_a_store(check: Check, tmp_path: Path) -> None:
    await check.run(site(tmp_path, NOTHING.store))


@pytest.mark.parametrize("check", WITH, ids=lambda check: check.name)
async def test_the_contract_with_a_store(check: Check, tmp_path: Path, rows: Beside) -> None:
    await check.run(site(tmp_path, rows.store))


@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=check.name, marks=pytest.mark.slow if check in WITHOUT else ()) for check in WITH],
)
async def test_the_contract_with_a_store_in_postgresql(check: Check, tmp_path: Path, empty_database: str) -> None:
    await check.run(site(tmp_path, lambda: PostgresStore(Postgres(empty_database, Clock())), delay=20.0))
