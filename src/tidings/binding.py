"""CloudEvents 1.0 on the headers of any broker: binary mode both ways, structured mode read.

In binary mode every attribute is a header under the binding's prefix (`ce_` on Kafka, `ce-` on NATS, `cloudEvents:` on
AMQP) and the body is the body. `datacontenttype` is the header `content-type`. A record's key is the attribute
`partitionkey`. Messages without attributes are foreign: they come as records without a type, whose id says where they
lie, for handlers that take a Record or map them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from tidings.broker import Record
from tidings.errors import DecodeError

JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
CONTENT_TYPE = "content-type"
NO_SOURCE = "/"
SAFE = "".join(chr(code) for code in range(33, 127) if chr(code) not in '"%')
PLAIN = re.compile(f"[{re.escape(SAFE)}]*").fullmatch
OWN = ("specversion", "id", "type", "time", "partitionkey")


def attributes(record: Record) -> dict[str, str]:
    """The context attributes of a record, without prefix; `content-type` under its own name."""
    told = {"specversion": "1.0", "id": record.id, "type": record.type, "source": NO_SOURCE, "time": stamp(record.time)}
    if record.key is not None:
        told["partitionkey"] = record.key
    told[CONTENT_TYPE] = record.headers.get("datacontenttype", JSON)
    return told | {name: value for name, value in record.headers.items() if name != "datacontenttype"}


def record(topic: str, value: bytes, told: Mapping[str, str], *, key: str | None, place: str) -> Record:
    """The record of a message with these attributes (lower case, without prefix; `content-type` beside them).

    `key` is the broker's own, which counts where no `partitionkey` is told; `place` is where the message lies, the id
    of a foreign one. What says it is structured and is not comes as it is, without a type: its handler buries it.
    """
    content = told.get(CONTENT_TYPE, "")
    if content.startswith(STRUCTURED):
        try:
            return structured(topic, value, key)
        except DecodeError:
            return Record(topic, value, key, "", told.get("id") or place, 0.0, dict(told))
    headers = {name: text for name, text in told.items() if name not in OWN and name != CONTENT_TYPE}
    if headers.get("source") == NO_SOURCE:
        del headers["source"]
    if content and content != JSON:
        headers["datacontenttype"] = content
    try:
        time = seconds(told["time"]) if "time" in told else 0.0
    except DecodeError:
        time, headers["time"] = 0.0, told["time"]
    return Record(
        topic, value, told.get("partitionkey", key), told.get("type", ""), told.get("id") or place, time, headers
    )


class Structured(msgspec.Struct):
    """The attributes of an event in the JSON format that have a meaning here, and its data."""

    id: str
    source: str
    specversion: str
    type: str
    time: str | None = None
    partitionkey: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: bytes | None = None


def structured(topic: str, value: bytes, key: str | None) -> Record:
    """The record of an event in structured mode (JSON format). Raises DecodeError."""
    try:
        event = msgspec.json.decode(value, type=Structured)
        others: dict[str, Any] = msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DecodeError(f"this is no CloudEvent in the JSON format: {error}") from error
    known = {"data", "data_base64", "datacontenttype", *OWN}
    headers = {name: text(told) for name, told in others.items() if name not in known and told is not None}
    if event.datacontenttype and event.datacontenttype != JSON:
        headers["datacontenttype"] = event.datacontenttype
    body = bytes(event.data) if event.data_base64 is None else event.data_base64
    if event.data_base64 is None and isinstance(others.get("data"), str) and headers.get("datacontenttype"):
        body = others["data"].encode()
    if event.source == NO_SOURCE:
        del headers["source"]
    time = 0.0 if event.time is None else seconds(event.time)
    return Record(
        topic, body, key if event.partitionkey is None else event.partitionkey, event.type, event.id, time, headers
    )


def structure(record: Record) -> bytes:
    """A record in structured mode (JSON format), for a transport that cannot carry so much in headers."""
    told: dict[str, Any] = attributes(record)
    told["datacontenttype"] = told.pop(CONTENT_TYPE)
    return msgspec.json.encode({**told, "data_base64": record.value})


def text(value: Any) -> str:
    """An attribute of the JSON format as text: its canonical form."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def stamp(time: float) -> str:
    """Seconds since the epoch as RFC 3339, in UTC."""
    whole, micro = divmod(round(time * 1_000_000), 1_000_000)
    return f"{_date(whole)}.{micro:06}Z"


@lru_cache(64)
def _date(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def seconds(told: str) -> float:
    """RFC 3339 as seconds since the epoch. Raises DecodeError."""
    if len(told) == 27 and told[19] == "." and told[26] == "Z" and told[20:26].isdecimal():  # as `stamp` writes it
        return (_microseconds(told[:19]) + int(told[20:26])) / 1_000_000
    return _parsed(told)


@lru_cache(64)
def _microseconds(told: str) -> int:
    return int(_parsed(told + "Z")) * 1_000_000


def _parsed(told: str) -> float:
    try:
        return datetime.fromisoformat(told).timestamp()
    except ValueError as error:
        raise DecodeError(f"the time {told!r} is not in the form of RFC 3339") from error


def percent(values: Iterable[tuple[str, str]], prefix: str) -> dict[str, str]:
    """Headers for a transport whose values are printable ASCII (NATS, HTTP): others are percent-encoded."""
    return {
        name if name == CONTENT_TYPE else prefix + name: value if PLAIN(value) else quote(value, safe=SAFE)
        for name, value in values
    }


def unpercent(told: str) -> str:
    """What `percent` encoded."""
    return unquote(told) if "%" in told else told
