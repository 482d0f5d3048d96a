"""Servers as the site of a run: what holds on the file holds there, with a store beside them."""

import asyncio
from pathlib import Path

import pytest

from tests.servers.shared import require
from tidings import dev
from tidings.chaos import driver
from tidings.chaos.address import find
from tidings.chaos.ground import SERVERS, ground
from tidings.chaos.plan import KILL, KILL_BROKER, NOTED, RETURNED, SOLD, Plan
from tidings.chaos.profile import check
from tidings.chaos.remote import Remote
from tidings.chaos.service import ACCOUNTS, HEARS, build
from tidings.message import contract_of

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]


def run_at(server: str, plan: Plan, folder: Path) -> driver.Report:
    async def run() -> driver.Report:
        async with ground(server, folder / "server", lasting=1.0) as place:
            site = find(place.url, f"sqlite:{folder / 'store.db'}", faults=place.faults, direct=place.direct)
            check(plan, site)
            return await driver.run(plan, site, folder)

    return asyncio.run(run())


def test_the_topics_of_each_handler_are_those_of_the_service(tmp_path: Path) -> None:
    app = build(Plan(), tmp_path, Remote("nats://127.0.0.1:1", f"sqlite:{tmp_path / 'store.db'}"))
    heard = {
        handler.function.__name__: tuple(dict.fromkeys(contract_of(source).topic for source in handler.sources))
        for handler in app.handlers.values()
        if not isinstance(handler.sources[0], str)
    }
    assert heard == HEARS
    assert ACCOUNTS.keys() == {SOLD, RETURNED, NOTED}


@pytest.mark.parametrize("server", SERVERS)
def test_workers_die_on_a_server_and_nothing_is_lost(server: str, tmp_path: Path) -> None:
    require(SERVERS[server])
    plan = Plan(events=300, keys=16, workers=2, publishers=1, lease=1.0, faults={KILL: 2})
    report = run_at(server, plan, tmp_path)
    assert not report.problems
    assert (report.lost, report.phantom, report.duplicate_effects, report.inversions) == (0, 0, 0, 0)


def test_the_server_dies_and_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    require(dev.Valkey)
    plan = Plan(events=300, keys=16, workers=2, publishers=1, lease=2.0, faults={KILL_BROKER: 1})
    report = run_at("valkey", plan, tmp_path)
    assert not report.problems
    assert report.faults == {KILL_BROKER: 1}
