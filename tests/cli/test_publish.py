"""`tidings publish`."""

import json
import time
from pathlib import Path

import pytest

from tests.cli.shop import publish, work
from tests.cli.terminal import column, failed, finish, run, start, tidings

APP = "tests.cli.shop:app"


def kept() -> list[dict[str, object]]:
    return tidings("tail", "--no-follow", "--json").lines


def test_an_event_is_durable_when_the_command_ends() -> None:
    result = tidings("publish", "order.placed", '{"order_id": "a"}', "--key", "a", "--json")
    (event,) = kept()
    assert result.code == 0
    assert result.json == {"type": "order.placed", "published": 1, "id": event["id"]}
    assert (event["topic"], event["type"], event["key"]) == ("order", "order.placed", "a")
    assert event["data"] == {"order_id": "a"}


def test_it_says_what_it_published() -> None:
    result = tidings("publish", "order.placed", "{}")
    assert result.out == f"Published order.placed {kept()[0]['id']}.\n"


def test_a_topic_of_choice() -> None:
    tidings("publish", "order.placed", "{}", "--topic", "elsewhere")
    assert column(kept(), "topic") == ["elsewhere"]


def test_an_app_publishes_it_as_its_class_says() -> None:
    assert tidings("publish", "order.placed", '{"order_id": "a", "total": 3}', "--app", APP).code == 0
    (event,) = kept()
    assert event["key"] == "a"
    assert event["data"] == {"order_id": "a", "total": 3, "bad": ""}
    assert event["headers"] == {"source": "shop", "eventversion": "1.0"}
    assert [order.total for order in work()] == [3]


def test_an_event_that_no_handler_of_the_app_hears_is_known_by_its_module() -> None:
    assert tidings("publish", "stock.low", '{"sku": "x"}', "--app", APP).code == 0
    assert column(kept(), "type") == ["stock.low"]


def test_a_field_that_does_not_fit_is_named() -> None:
    publish()
    missing = tidings("publish", "order.placed", '{"order_id": "a"}', "--app", APP)
    assert failed(missing, 1, "order.placed", "total")
    wrong = tidings("publish", "order.placed", '{"order_id": "a", "total": "three"}', "--app", APP)
    assert failed(wrong, 1, "order.placed", "field total", "int")
    assert kept() == []


def test_a_payload_from_a_file() -> None:
    Path("event.json").write_text('{"order_id": "from the file"}\n')
    tidings("publish", "order.placed", "@event.json")
    assert kept()[0]["data"] == {"order_id": "from the file"}


def test_an_id_is_published_once() -> None:
    for _ in range(2):
        assert tidings("publish", "order.placed", "{}", "--id", "once").code == 0
    assert column(kept(), "id") == ["once"]


def test_json_lines_from_a_stream() -> None:
    lines = "".join(f'{{"n": {n}}}\n\n' for n in range(2500))
    result = run("publish", "order.placed", "-", "--json", stdin=lines.encode())
    assert result.json == {"type": "order.placed", "published": 2500, "id": None}
    assert [event["data"] for event in kept()] == [{"n": n} for n in range(2500)]


def test_a_line_is_published_while_the_stream_goes_on() -> None:
    publish()
    process = start("publish", "order.placed", "-")
    assert process.stdin is not None
    process.stdin.write(b'{"n": 1}\n{"n"')
    process.stdin.flush()
    while not kept():
        time.sleep(0.05)
    assert finish(process, b": 2}").out == "Published 2 order.placed.\n"
    assert [event["data"] for event in kept()] == [{"n": 1}, {"n": 2}]


def test_what_comes_before_a_wrong_line_is_published_and_the_line_named() -> None:
    result = run("publish", "order.placed", "-", stdin=b'{"n": 1}\n\n{"n": 2}\nnot JSON\n{"n": 3}\n')
    assert failed(result, 1, "line 4", "not JSON", "2 events before it published")
    assert [event["data"] for event in kept()] == [{"n": 1}, {"n": 2}]


def test_an_empty_stream_publishes_nothing() -> None:
    assert run("publish", "order.placed", "-", "--json").json["published"] == 0


def test_a_stream_from_a_file() -> None:
    Path("events").write_text('{"n": 1}\n{"n": 2}')
    with Path("events").open("rb") as file:
        process = start("publish", "order.placed", "-", stdin=file)
        assert finish(process).out == "Published 2 order.placed.\n"


def test_the_settings_of_the_folder_are_obeyed() -> None:
    Path("tidings.toml").write_text('broker = "sqlite:here.db"\nbody_limit = 20\n')
    assert tidings("publish", "order.placed", "{}").code == 0
    assert Path("here.db").exists()
    assert failed(tidings("publish", "order.placed", json.dumps("x" * 20)), 1, "22 bytes", "limit of 20")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["placed", "{}"], 2, ["noun.verb"]),
        (["order.placed", "{}", "--topic", "a b"], 2, ["topic 'a b'"]),
        (["order.placed", "{"], 1, ["not JSON"]),
        (["order.placed", ""], 1, ["not JSON"]),
        (["order.placed", '{"a": "\udcff"}'], 1, ["not JSON"]),
        (["order.placed", "@nowhere.json"], 2, ["nowhere.json", "No such file"]),
        (["order.placed", "-", "--id", "x"], 2, ["--id"]),
        (["order.placed", "{}", "--delay", "-1"], 2, ["--delay"]),
        (["order.placed", "{}", "--key", "k", "--app", APP], 2, ["leave --key"]),
        (["order.lost", "{}", "--app", APP], 2, ["order.lost", "order.placed", "stock.low"]),
        (["order.placed", "{}", "--app", "nowhere:app"], 2, ["nowhere"]),
        (["order.placed", "{}", "--broker", "pigeon:home"], 2, ["pigeon"]),
        (["order.placed", "{}", "--broker", "sqlite:/nowhere/tidings.db"], 1, ["/nowhere does not exist"]),
    ],
)
def test_what_cannot_be_published_is_refused_in_a_sentence(args: list[str], code: int, words: list[str]) -> None:
    assert failed(tidings("publish", *args), code, *words)
