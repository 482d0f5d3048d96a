"""CloudEvents on the headers of any broker."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from tidings import binding
from tidings.broker import Record
from tidings.errors import DecodeError

SENT = Record(
    "order", b'{"n":1}', "ünï key", "order.created", "o-1", 1_767_225_600.123,
    {"source": "shop", "eventversion": "1.0", "correlationid": "c", "traceparent": "00-1-2-01"},
)  # fmt: skip


def test_a_record_comes_back_as_it_was() -> None:
    assert binding.record("order", SENT.value, binding.attributes(SENT), key="other", place="p") == SENT


@pytest.mark.parametrize("key", [None, "", "0"])
def test_no_key_is_not_the_empty_key(key: str | None) -> None:
    sent = Record("order", b"", key, "t", "r1", 0.0, {"datacontenttype": "application/msgpack"})
    assert binding.record("order", b"", binding.attributes(sent), key=None, place="p") == sent


def test_a_foreign_message_is_a_record_without_a_type() -> None:
    received = binding.record("order", b"\xff", {"x-own": "1"}, key="k", place="order-0-17")
    assert received == Record("order", b"\xff", "k", "", "order-0-17", 0.0, {"x-own": "1"})


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"id": 1}', b'{"id":"a","source":"s","specversion":"1.0"}'])
def test_what_says_it_is_structured_and_is_not_is_foreign(body: bytes) -> None:
    told = {"content-type": binding.STRUCTURED}
    assert binding.record("order", body, told, key=None, place="p") == Record("order", body, None, "", "p", 0.0, told)


def test_a_time_that_is_none_is_kept_as_a_header() -> None:
    received = binding.record("order", b"", {"type": "t", "id": "i", "time": "noon"}, key=None, place="p")
    assert (received.time, received.headers) == (0.0, {"time": "noon"})


@pytest.mark.parametrize(
    ("given", "body"),
    [({"data": {"n": 1}}, b'{"n": 1}'), ({"data_base64": base64.b64encode(b"\x00").decode()}, b"\x00"), ({}, b"")],
)
def test_structured_events_are_read(given: dict[str, Any], body: bytes) -> None:
    event = {"specversion": "1.0", "id": "a", "source": "s", "type": "order.created", "partitionkey": "k",
             "time": "2026-01-01T00:00:00.5+01:00", "count": 3, **given}  # fmt: skip
    told = {"content-type": f"{binding.STRUCTURED}; charset=utf-8"}
    received = binding.record("order", json.dumps(event).encode(), told, key=None, place="p")
    assert received == Record("order", body, "k", "order.created", "a", 1_767_222_000.5, {"source": "s", "count": "3"})


def test_the_official_package_reads_ours() -> None:
    headers = {f"ce_{name}" if name != "content-type" else name: text.encode()
               for name, text in binding.attributes(SENT).items()}  # fmt: skip
    event = from_binary(
        KafkaMessage(headers, SENT.key.encode() if SENT.key else None, SENT.value), JSONFormat(), CloudEvent
    )
    assert (event.get_id(), event.get_type(), event.get_source()) == ("o-1", "order.created", "shop")
    assert event.get_time().timestamp() == pytest.approx(SENT.time)  # type: ignore[union-attr]
    assert event.get_extension("correlationid") == "c"


def test_what_the_official_package_writes_is_read() -> None:
    event = CloudEvent({"type": "order.created", "source": "other", "id": "x", "partitionkey": "k"}, {"n": 1})
    message = to_structured(event, JSONFormat())
    told = {name: value.decode() for name, value in message.headers.items()}
    received = binding.record("order", message.value, told, key=None, place="p")
    assert (received.id, received.type, received.key, json.loads(received.value)) == (
        "x",
        "order.created",
        "k",
        {"n": 1},
    )


def test_values_for_ascii_headers_come_back() -> None:
    sent = {"id": "Grüße\r\n 100% \x00", "empty": "", "zero": "0"}
    headers = binding.percent(sent.items(), "ce-")
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert {name.removeprefix("ce-"): binding.unpercent(value) for name, value in headers.items()} == sent


@given(st.integers(-2_000_000_000_000_000, 4_000_000_000_000_000))
def test_a_time_comes_back_to_the_microsecond(microseconds: int) -> None:
    time = microseconds / 1_000_000
    told = binding.stamp(time)
    assert told == datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert binding.seconds(told) == datetime.fromisoformat(told).timestamp() == time


@pytest.mark.parametrize("told", ["noon", "2026-01-01T00:00:00.12345xZ", "2026-13-01T00:00:00.123456Z", ""])
def test_what_is_no_time_is_refused(told: str) -> None:
    with pytest.raises(DecodeError, match="RFC 3339"):
        binding.seconds(told)
