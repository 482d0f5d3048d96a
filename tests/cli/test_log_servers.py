"""`tidings tail` and `tidings replay` on live servers."""

import signal

import pytest

from tests.cli.shop import HANDLER, Low, Placed, publish, work
from tests.cli.terminal import column, failed, finish, start, tidings
from tests.cli.test_tail import history, line_of
from tests.servers.shared import require
from tidings.dev import Valkey

pytestmark = pytest.mark.timeout(300)  # a busy machine starts RabbitMQ in a minute

LOGS = ["nats", "valkey", "postgres"]


def orders(*totals: int) -> list[Placed]:
    return [Placed(order_id="a", total=total) for total in totals]


@pytest.mark.parametrize("broker", LOGS, indirect=True)
def test_what_is_there_is_shown_and_what_comes_also_on_a_topic_that_is_new(broker: str) -> None:
    publish(*(Placed(order_id=f"o{n % 3}", total=n) for n in range(300)))
    found = history()
    assert sorted(event["data"]["total"] for event in found) == list(range(300))
    assert [event["data"]["total"] for event in found if event["key"] == "o1"] == list(range(1, 300, 3))
    assert len(tidings("tail", "--from", "1h", "-n", "300", "--json").lines) == 300
    assert history("--from", "end") == []
    process = start("tail", "--from", "start", "--json", "--key", "new")
    publish(Placed(order_id="new", total=300))
    assert line_of(process)["data"]["total"] == 300
    publish(Low(sku="x"), Placed(order_id="new", total=301))
    assert line_of(process)["data"]["total"] == 301
    process.send_signal(signal.SIGINT)
    assert failed(finish(process), 130)
    assert column(history("stock"), "data") == [{"sku": "x"}]
    assert failed(tidings("tail", "stok", "--no-follow"), 2, "no topic 'stok'", "did you mean stock")


def test_a_server_that_has_been_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    require(Valkey)
    with Valkey() as server:
        monkeypatch.setenv("TIDINGS_BROKER", server.url)
        publish(Low(sku="a"))
        process = start("tail", "stock", "--from", "start", "--json")
        assert line_of(process)["data"] == {"sku": "a"}
        server.restart()
        publish(Low(sku="b"))
        assert line_of(process)["data"] == {"sku": "b"}
        process.send_signal(signal.SIGINT)
        assert failed(finish(process), 130)


@pytest.mark.parametrize("broker", LOGS, indirect=True)
def test_a_group_goes_back_and_ahead(broker: str) -> None:
    assert work(*orders(1, 2, 3)) == orders(1, 2, 3)
    back = tidings("replay", HANDLER, "--from", "start", "--yes", "--json")
    assert back.json["topics"] == [{"topic": "order", "again": 3, "skipped": 0}], back.err
    assert work() == orders(1, 2, 3)
    publish(*orders(4, 5))
    asked = tidings("replay", HANDLER, "--from", "end", answer="n\n")
    assert "2 events that it has not handled yet will be SKIPPED" in asked.err
    assert tidings("replay", HANDLER, "--from", "end", "--yes").code == 0
    assert work() == []
    asked = tidings("replay", HANDLER, "--from", "1h", answer="y\n")
    assert "order: what came since then will be handled again" in asked.err
    assert work() == orders(1, 2, 3, 4, 5)
    assert failed(tidings("replay", "shop.shop", "--from", "start"), 2, "no handler 'shop.shop'", "shop.ship")


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_the_store_forgets_that_it_was_done(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as beside:
        beside.setenv("TIDINGS_STORE", "sqlite:shop.db")
        assert work(*orders(1, 2)) == orders(1, 2)
    assert tidings("replay", HANDLER, "--from", "start", "--yes", "--store", "sqlite:shop.db").code == 0
    monkeypatch.setenv("TIDINGS_STORE", "sqlite:shop.db")
    assert work() == orders(1, 2)


@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_where_there_is_no_history_it_is_said_and_what_comes_is_shown(broker: str) -> None:
    work(*orders(1))
    assert failed(tidings("replay", HANDLER, "--from", "start"), 2, "nothing can come again")
    assert failed(tidings("tail", "order", "--no-follow"), 2, "keeps no history", "--from")
    assert failed(tidings("tail"), 1, "--monitor")
