"""`tidings replay`."""

import time
from datetime import UTC, datetime

from tests.cli.shop import HANDLER, Placed, publish, work
from tests.cli.terminal import failed, tidings


def orders(*totals: int) -> list[Placed]:
    return [Placed(order_id="a", total=total) for total in totals]


def waiting() -> int:
    (group,) = tidings("groups", HANDLER, "--json", "--interval", "0").json
    return int(group["waiting"])


def test_from_the_start_all_that_is_kept_is_handled_again() -> None:
    work(*orders(1, 2, 3))
    result = tidings("replay", HANDLER, "--from", "start", "--yes", "--json")
    assert result.json == {
        "handler": HANDLER,
        "from": "start",
        "topics": [{"topic": "order", "again": 3, "skipped": 0}],
    }
    assert waiting() == 3
    assert [order.total for order in work()] == [1, 2, 3]


def test_from_a_time() -> None:
    work(*orders(1, 2))
    time.sleep(0.02)
    now = datetime.now(UTC)
    work(*orders(3))
    result = tidings("replay", HANDLER, "--from", now.isoformat(), "--topic", "order", "--yes")
    assert result.out == "shop.ship handles 1 event again.\n"
    assert [order.total for order in work()] == [3]


def test_it_asks_and_says_what_will_happen() -> None:
    work(*orders(1, 2))
    refused = tidings("replay", HANDLER, "--from", "start", answer="n\n")
    assert refused.code != 0
    assert "order: 2 events will be handled again, with all that the handler does" in refused.err
    assert waiting() == 0
    assert tidings("replay", HANDLER, "--from", "start", answer="y\n").code == 0
    assert waiting() == 2


def test_it_warns_of_what_would_never_be_handled() -> None:
    work(*orders(1))
    publish(*orders(2, 3))
    refused = tidings("replay", HANDLER, "--from", "end", answer="n\n")
    assert "2 events that it has not handled yet will be SKIPPED" in refused.err
    assert waiting() == 2
    result = tidings("replay", HANDLER, "--from", "end", "--yes", "--json")
    assert result.json["topics"] == [{"topic": "order", "again": 0, "skipped": 2}]
    assert work() == []


def test_what_cannot_be_replayed() -> None:
    work(*orders(1))
    assert failed(tidings("replay", "shop.shop", "--from", "start"), 2, "no handler 'shop.shop'", "shop.ship")
    assert failed(tidings("replay", HANDLER), 2, "--from")
    assert failed(tidings("replay", HANDLER, "--from", "soon"), 2, "'soon' is no time")
    assert failed(tidings("replay", HANDLER, "--from", "start", "--topic", "stock"), 2, "no topic 'stock'", "order")
    assert failed(tidings("replay", HANDLER, "--from", "start", "--broker", "sqlite:no.db"), 1, "no database")
