"""`tidings tail`."""

import asyncio
import base64
import json
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from tests.cli.shop import Low, Placed, publish, work
from tests.cli.terminal import column, failed, finish, start, tidings
from tidings import App, Record


def history(*args: str) -> list[Any]:
    return tidings("tail", "--no-follow", "--json", *args).lines


def test_all_topics_in_the_order_of_time() -> None:
    for n in range(3):
        publish(Placed(order_id="a", total=n), Low(sku=str(n)))
    assert column(history(), "type") == ["order.placed", "stock.low"] * 3


def test_one_topic() -> None:
    publish(Placed(order_id="a", total=1), Low(sku="x"))
    assert column(history("stock"), "type") == ["stock.low"]


def test_by_type_key_and_number() -> None:
    publish(*(Placed(order_id=f"o{n % 2}", total=n) for n in range(600)), Low(sku="x"))
    assert column(history("--key", "o1", "-n", "2"), "data") == [
        {"order_id": "o1", "total": 1, "bad": ""},
        {"order_id": "o1", "total": 3, "bad": ""},
    ]
    assert len(history("--type", "order.placed")) == 600
    assert len(history("--type", "stock.low")) == 1


def test_from_a_time() -> None:
    publish(Low(sku="old"))
    time.sleep(0.02)
    now = datetime.now(UTC)
    publish(Low(sku="new"))
    assert column(history("--from", now.isoformat()), "data") == [{"sku": "new"}]
    assert column(history("--from", now.astimezone().replace(tzinfo=None).isoformat()), "data") == [{"sku": "new"}]
    assert history("--from", (now + timedelta(hours=1)).isoformat()) == []
    assert len(history("--from", "1h")) == 2
    assert history("--from", "end") == []


def test_an_event_named_as_in_cloudevents() -> None:
    publish(Placed(order_id="a", total=1))
    (event,) = history()
    assert event.keys() == {"topic", "type", "id", "key", "time", "data", "headers"}
    assert datetime.fromisoformat(event["time"]).tzinfo is not None


def test_a_payload_that_is_not_json() -> None:
    async def tell() -> None:
        async with App("teller") as app:
            assert app.connection is not None
            await app.connection.broker.publish(
                [Record("raw", b"\xff\x1b[2J", type="raw.told", id="1", time=time.time())]
            )

    asyncio.run(tell())
    (event,) = history()
    assert base64.b64decode(event["data_base64"]) == b"\xff\x1b[2J"
    assert "data" not in event
    assert "\x1b" not in tidings("tail", "--no-follow").out


def test_a_payload_in_msgpack() -> None:
    async def tell() -> None:
        async with App("teller", encoding="msgpack") as app:
            await app.publish(Low(sku="x"))

    asyncio.run(tell())
    assert column(history(), "data") == [{"sku": "x"}]


def test_a_payload_does_nothing_to_the_terminal() -> None:
    evil = "\x1b[31m\x07\r\n\u202e\x9b2J"
    publish(Placed(order_id=evil, total=1))
    (line,) = tidings("tail", "--no-follow").out.splitlines()
    assert all(char.isprintable() for char in line)
    assert "order.placed" in line
    (event,) = history()
    assert event["key"] == event["data"]["order_id"] == evil


def test_a_long_payload_is_shortened() -> None:
    publish(Low(sku="x" * 10_000))
    (line,) = tidings("tail", "--no-follow").out.splitlines()
    assert len(line) <= 500
    assert line.endswith("…")


def test_dead_letters_are_shown_where_they_are_asked_for() -> None:
    work(Placed(order_id="a", total=1, bad="key"))
    assert column(history(), "topic") == ["order"]
    assert column(history("dead.shop.ship"), "topic") == ["dead.shop.ship"]


def test_it_disturbs_no_group() -> None:
    publish(Placed(order_id="a", total=1))
    history()
    assert len(work()) == 1


def line_of(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_what_comes_is_shown_also_on_a_topic_that_is_new() -> None:
    publish(Placed(order_id="before", total=0))
    process = start("tail", "--from", "start", "--json")
    assert line_of(process)["key"] == "before"
    publish(Placed(order_id="a", total=1))
    assert line_of(process)["key"] == "a"
    publish(Low(sku="x"))
    assert line_of(process)["type"] == "stock.low"
    process.send_signal(signal.SIGINT)
    assert failed(finish(process), 130)


def test_it_begins_at_the_end_and_ends_after_so_many() -> None:
    publish(Low(sku="before"))
    process = start("tail", "stock", "-n", "2", "--json")
    for number in count():  # it does not say when it has begun
        publish(Low(sku=str(number)))
        if process.poll() is not None:
            break
    told = finish(process)
    first, second = (int(data["sku"]) for data in column(told.lines, "data"))
    assert (second, told.code) == (first + 1, 0)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["stok"], ["no topic 'stok'", "did you mean stock"]),
        (["--from", "yesterday"], ["'yesterday' is no time"]),
        (["-n", "0"], ["-n"]),
    ],
)
def test_wrong_flags(args: list[str], words: list[str]) -> None:
    publish(Low(sku="x"))
    assert failed(tidings("tail", "--no-follow", *args), 2, *words)


def test_where_there_is_no_database_nobody_waits() -> None:
    assert failed(tidings("tail"), 1, "There is no database")
