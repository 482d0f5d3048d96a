"""`tidings groups`."""

import asyncio
import json
import signal
import threading
from collections.abc import Generator

import pytest

from tests.cli.shop import HANDLER, Placed, publish, work
from tests.cli.terminal import column, failed, finish, start, tidings
from tidings import App, Start

KEYS = {"group", "topics", "waiting", "oldest", "rate", "arriving", "drain", "members", "dead"}


def orders(count: int, bad: str = "") -> list[Placed]:
    return [Placed(order_id=f"o{n}", total=n, bad=bad) for n in range(count)]


def test_a_group_that_has_done_all() -> None:
    work(*orders(5), *orders(3, bad="key"))
    (group,) = tidings("groups", "--json", "--interval", "0.1").json
    assert group == {
        "group": HANDLER, "topics": ["order", "replay.shop.ship"], "waiting": 0, "oldest": 0.0, "rate": 0.0,
        "arriving": 0.0, "drain": 0.0, "members": 0, "dead": 3,
    }  # fmt: skip


def test_a_group_that_nobody_serves_is_never_done() -> None:
    work()
    publish(*orders(7))
    (group,) = tidings("groups", "--json", "--interval", "0.1").json
    assert (group["waiting"], group["members"], group["rate"], group["drain"]) == (7, 0, 0.0, None)
    assert 0 < group["oldest"] < 30


def test_without_an_interval_there_are_no_rates() -> None:
    work()
    (group,) = tidings("groups", "--json", "--interval", "0").json
    assert group.keys() == KEYS
    assert group["rate"] is group["arriving"] is group["drain"] is None


@pytest.fixture
def slow_shop() -> Generator[None]:
    """A shop that handles 100 events a second, at work in a thread."""
    app = App("shop")

    @app.on(Placed, start=Start.EARLIEST, rate=100)
    async def ship(order: Placed) -> None: ...

    begun, end = threading.Event(), threading.Event()

    async def run() -> None:
        async with app.running():
            begun.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    begun.wait()
    yield
    end.set()
    thread.join()


def test_rate_and_time_to_drain_are_measured(slow_shop: None) -> None:
    publish(*orders(1000))
    (group,) = tidings("groups", "--json", "--interval", "1").json
    assert 40 < group["rate"] < 250
    assert group["members"] == 1
    assert group["drain"] == pytest.approx(group["waiting"] / group["rate"])


def test_one_group_for_people() -> None:
    work(*orders(2, bad="key"))
    head, row = tidings("groups", HANDLER, "--interval", "0").out.splitlines()
    assert head.split() == ["group", "topics", "waiting", "oldest", "rate", "arriving", "drain", "members", "dead"]
    assert row.split() == [HANDLER, "order", "0", "0", "s", "-", "-", "-", "0", "2"]


def test_the_groups_of_operators_are_asked_for() -> None:
    work(*orders(2, bad="key"))
    operator, shop = tidings("groups", "--all", "--json", "--interval", "0").json
    assert (operator["group"], operator["waiting"], operator["dead"]) == ("operator.shop.ship", 2, None)
    assert shop["group"] == HANDLER


def test_watching_goes_on_until_it_is_told_to_end() -> None:
    work()
    process = start("groups", "--watch", "--json", "--interval", "0.1")
    assert process.stdout is not None
    for _ in range(3):
        assert column(json.loads(process.stdout.readline()), "group") == [HANDLER]
    process.send_signal(signal.SIGINT)
    assert failed(finish(process), 130)


def test_an_unknown_group() -> None:
    work()
    assert failed(tidings("groups", "shop.shop"), 2, "no group 'shop.shop'", "did you mean shop.ship")


def test_no_groups_yet() -> None:
    publish()
    assert "no groups yet" in tidings("groups").out
    assert tidings("groups", "--json").json == []
