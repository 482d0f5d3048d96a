"""`tidings topics`."""

from pathlib import Path

from tests.cli.shop import Low, Placed, publish, work
from tests.cli.terminal import column, failed, tidings


def test_each_topic_with_what_it_holds() -> None:
    work(Placed(order_id="a", total=1), Placed(order_id="b", total=2))
    publish(Low(sku="x"))
    order, stock = tidings("topics", "--json").json
    assert (order["topic"], order["events"], order["groups"]) == ("order", 2, ["shop.ship"])
    assert (stock["topic"], stock["events"], stock["groups"]) == ("stock", 1, [])
    assert order["first"] <= order["last"] <= stock["first"]
    assert order["bytes"] > len('{"order_id":"a","total":1,"bad":""}') * 2
    assert order.keys() == {"topic", "events", "delayed", "first", "last", "bytes", "groups"}


def test_topics_of_dead_letters_and_replays_are_asked_for() -> None:
    work(Placed(order_id="a", total=1))
    assert column(tidings("topics", "--json").json, "topic") == ["order"]
    assert column(tidings("topics", "--json", "--all").json, "topic") == [
        "dead.shop.ship",
        "order",
        "replay.shop.ship",
    ]


def test_a_table_for_people() -> None:
    publish(Low(sku="x"))
    result = tidings("topics")
    head, row = result.out.splitlines()
    assert head.split()[:2] == ["topic", "events"]
    assert row.split()[:2] == ["stock", "1"]


def test_events_that_are_not_due_are_counted_apart() -> None:
    assert tidings("publish", "stock.low", "{}", "--delay", "3600").code == 0
    (stock,) = tidings("topics", "--json").json
    assert (stock["events"], stock["delayed"], stock["first"]) == (0, 1, None)


def test_looking_changes_nothing() -> None:
    publish(Low(sku="x"))
    file = Path("tidings.db")
    before = file.read_bytes()
    tidings("topics")
    assert file.read_bytes() == before


def test_where_there_is_no_database_none_is_made() -> None:
    assert failed(tidings("topics"), 1, "There is no database at", "tidings.db")
    assert not list(Path.cwd().iterdir())


def test_an_empty_database_has_no_topics() -> None:
    publish()
    assert tidings("topics", "--json").json == []
    assert "no topics" in tidings("topics").out


def test_only_a_file_of_ours_is_looked_into() -> None:
    assert failed(tidings("topics", "--broker", "memory:"), 2, "one process")
    assert failed(tidings("topics", "--broker", "ftp://x"), 2, "unknown scheme 'ftp'", "sqlite:PATH")
    Path("other.db").write_text("not a database, but long enough to be looked at by anybody who opens it" * 20)
    assert failed(tidings("topics", "--broker", "sqlite:other.db"), 1, "not a SQLite database")


def test_an_unknown_setting_is_an_error() -> None:
    Path("tidings.toml").write_text("borker = 'x'")
    assert failed(tidings("topics"), 2, "borker", "did you mean 'broker'")
