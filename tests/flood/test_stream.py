"""What arrives: files, samples, functions."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidings import App, Event
from tidings.errors import ConfigError, InvalidEvent
from tidings.flood.stream import MOST, Known, Stream


class Placed(Event, name="order.placed", key="order_id"):
    order_id: str
    total: int


class PlacedAsHeard(Event, name="order.placed"):
    order_id: str


class Counted(Event, name="count.moved", key="number", topic="counts"):
    number: int


app = App("shop")


@app.on(PlacedAsHeard, Counted)
async def hear(event: PlacedAsHeard | Counted) -> None:
    """Hears with fewer fields than there are."""


def forever() -> Iterator[Event]:
    number = 0
    while True:
        yield Counted(number=number)
        number += 1


def none() -> None:
    """Forgot to yield."""


def never() -> list[Event]:
    return []


def read(*lines: Any) -> Stream:
    Path("events.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return Known([app]).recording(Path("events.jsonl"), lambda count: None)


def line(id: str, **more: Any) -> dict[str, Any]:
    return {"type": "order.placed", "data": {"order_id": id, "total": 3}, **more}


def test_a_line_needs_no_more_than_type_and_data() -> None:
    (record,) = read(line("a")).records
    assert (record.topic, record.key, record.type) == ("order", "a", "order.placed")
    assert msgspec.json.decode(record.value) == {"order_id": "a", "total": 3}, "also what no handler reads"


def test_a_line_says_topic_key_and_headers_itself() -> None:
    recorded = line("a", topic="o", key="k", headers={"traceparent": "00-1", "correlationid": "x", "causationid": "y"})
    (record,) = read(recorded).records
    assert (record.topic, record.key, record.headers) == ("o", "k", {"traceparent": "00-1"})


def test_lines_come_in_the_order_of_time() -> None:
    stream = read(line("b", time="2026-01-01T00:00:05Z"), "", line("a", time="2026-01-01T00:00:02Z"))
    assert [record.key for record in stream.records] == ["a", "b"]
    began = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert [at - began for at in stream.times] == [2, 5]


def test_without_a_time_there_are_none() -> None:
    assert read(line("b", time="2026-01-01T00:00:05Z"), line("a")).times == ()


def test_what_these_apps_had_answered_is_left_out() -> None:
    answer = {"causationid": "1", "correlationid": "1"}
    stream = read(
        line("a"),
        line("b", headers={**answer, "source": "shop"}),
        line("c", headers={**answer, "source": "other"}),
    )
    assert [record.key for record in stream.records] == ["a", "c"]
    assert stream.left_out == 1


def test_msgpack_stays_msgpack() -> None:
    (record,) = read(line("a", headers={"datacontenttype": "application/msgpack"})).records
    assert msgspec.msgpack.decode(record.value) == {"order_id": "a", "total": 3}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ('{"type": "order.placed"', "truncated"),
        ({"data": {}}, "type"),
        ({"type": "order.placed"}, "no `data`"),
        ({"type": "Order", "data": {}}, "noun.verb"),
        ({"type": "order.placed", "data": {"order_id": 3}}, "field order_id"),
        ({"type": "order.placed", "data": {}, "topic": "A B"}, "topic"),
        ({"type": "order.placed", "data_base64": "%"}, "order.placed"),
        (line("a", time="yesterday"), "field time"),
        ("\x00", "JSON"),
    ],
)
def test_a_wrong_line_is_named(wrong: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=r"events\.jsonl, line 2: ") as refused:
        read(line("a"), wrong)
    assert words in str(refused.value)


def test_a_file_without_events_or_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="no events"):
        read("", "")
    with pytest.raises(ConfigError, match="cannot be read"):
        Known([app]).recording(Path("nowhere"), lambda count: None)


def test_a_class_of_another_module_with_that_name_says_nothing_about_these_apps() -> None:
    class Elsewhere(Event, name="count.moved", key="other"):
        other: str

    stream = Known([app]).sample("count.moved", '{"number": 3}', keys=2, field=None)
    assert [record.key for record in stream.records] == ["3", "4"]


def test_a_sample_varies_by_its_key() -> None:
    known = Known([app])
    stream = known.sample("order.placed", '{"order_id": "o", "total": 3}', keys=3, field=None)
    assert [record.key for record in stream.records] == ["o-0", "o-1", "o-2"]
    assert msgspec.json.decode(stream.records[2].value) == {"order_id": "o-2", "total": 3}
    numbers = known.sample("count.moved", '{"number": 5}', keys=2, field=None)
    assert [(record.key, record.topic) for record in numbers.records] == [("5", "counts"), ("6", "counts")]
    other = known.sample("order.placed", '{"order_id": "o", "total": 3}', keys=2, field="total")
    assert [record.key for record in other.records] == ["3", "4"]


@pytest.mark.parametrize(
    ("type", "text", "words"),
    [
        ("order.placed", "{", "not JSON"),
        ("order.placed", "[]", "no field 'order_id'"),
        ("order.placed", '{"order_id": null}', "cannot be varied"),
        ("Placed", "{}", "noun.verb"),
    ],
)
def test_a_wrong_sample_is_refused(type: str, text: str, words: str) -> None:
    with pytest.raises(InvalidEvent, match=words):
        Known([app]).sample(type, text, keys=2, field=None)


def test_a_function_may_go_on_for_ever() -> None:
    stream = Known([app]).made(f"{__name__}:forever")
    assert [record.key for record in stream.records] == [str(number) for number in range(MOST)]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module:f", "no module"),
        (f"{__name__}:nothing", "no function"),
        (f"{__name__}:never", "makes no events"),
        (f"{__name__}:none", "returns no events but NoneType"),
    ],
)
def test_a_function_that_is_not_there_or_makes_nothing_is_refused(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Known([app]).made(spec)
