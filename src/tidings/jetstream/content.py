"""Records as messages of NATS and back: CloudEvents on headers, with the prefix `ce-` and percent-encoded values.

What differs from record to record stands first, and behind `ce-specversion` what is the same for many: that is taken
apart once. Messages of others may have any order, and take the long way.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

from tidings import binding
from tidings.binding import CONTENT_TYPE, JSON, NO_SOURCE, OWN, PLAIN, SAFE, STRUCTURED, unpercent
from tidings.broker import Record
from tidings.errors import DecodeError, InvalidEvent

NAME = re.compile(r"[!#-9;-~]+")
MOST = 60_000
"""Bytes of headers; JetStream keeps at most 64 KiB, with some of its own."""
TIME = b"\r\nce-time: "
FIRST = "NATS/1.0\r\nNats-Msg-Id: "
SAME = "\r\nce-specversion: "
ATTRIBUTES = frozenset({"ce-id", "ce-time", "ce-partitionkey"})
APART = frozenset({*OWN, CONTENT_TYPE})


def message(record: Record) -> tuple[bytes, bytes]:
    """Headers and body of a message: in structured mode where NATS does not take that much as headers."""
    told = headers(record)
    if len(told) <= MOST:
        return told, record.value
    identity = f"NATS/1.0\r\nNats-Msg-Id: {_safe(record.id)}\r\n{CONTENT_TYPE}: {STRUCTURED}\r\n\r\n"
    return identity.encode(), binding.structure(record)


def headers(record: Record) -> bytes:
    """The headers of a message in binary mode. Raises InvalidEvent for a name that NATS cannot carry."""
    told = record.headers
    if not APART.isdisjoint(told):
        return _with_odd(record)
    id = _safe(record.id)
    lines = [f"NATS/1.0\r\nNats-Msg-Id: {id}\r\nce-id: {id}\r\nce-time: {binding.stamp(record.time)}"]
    if record.key is not None:
        lines.append(f"ce-partitionkey: {_safe(record.key)}")
    for name, text in told.items():
        if name not in ("source", "datacontenttype"):
            lines.append(f"ce-{_name(name)}: {_safe(text)}")
    lines.append(_same(record.type, told.get("source", NO_SOURCE), told.get("datacontenttype", JSON)))
    return "\r\n".join(lines).encode()


def _with_odd(record: Record) -> bytes:
    """Where a header has the name of an attribute, it stands for it."""
    told = binding.attributes(record)
    content = told.pop(CONTENT_TYPE)
    lines = [f"ce-{_name(name)}: {_safe(text)}\r\n" for name, text in told.items()]
    first = f"NATS/1.0\r\nNats-Msg-Id: {_safe(record.id)}\r\n{CONTENT_TYPE}: {_content(content)}\r\n"
    return f"{first}{''.join(lines)}\r\n".encode()


def _safe(text: str) -> str:
    return text if PLAIN(text) else quote(text, safe=SAFE)


def _content(text: str) -> str:
    return quote(text, safe=SAFE + ' "')


@lru_cache(1024)
def _name(name: str) -> str:
    if NAME.fullmatch(name) is None:
        raise InvalidEvent(f"NATS cannot carry a header of the name {name!r}: letters, digits, - and _ only")
    return name


@lru_cache(256)
def _same(type: str, source: str, content: str) -> str:
    """The end of the headers, which many records share."""
    shared = f"{SAME}1.0\r\nce-type: {_safe(type)}\r\nce-source: {_safe(source)}"
    return f"{shared}\r\n{CONTENT_TYPE}: {_content(content)}\r\n\r\n".removeprefix("\r\n")


def record(topic: str, headers: bytes, value: bytes, place: str) -> Record:
    """The record of a message. `place` is the id of one that has none."""
    text = headers.decode("utf-8", "replace")
    different, _, same = text.partition(SAME)
    shared = _shared(same) if different.startswith(FIRST) else None
    if shared is None:
        return _foreign(topic, text, value, place)
    type, more = shared
    told, given = dict(more), {"ce-id": "", "ce-time": ""}
    for line in different.split("\r\n")[2:]:
        name, _, said = line.partition(": ")
        if "%" in said:
            said = unpercent(said)
        if name in ATTRIBUTES:
            given[name] = said
        elif name[:3] == "ce-":
            told[name[3:]] = said
        else:
            return _foreign(topic, text, value, place)
    try:
        time = binding.seconds(given["ce-time"])
    except DecodeError:
        return _foreign(topic, text, value, place)
    return Record(topic, value, given.get("ce-partitionkey"), type, given["ce-id"] or place, time, told)


@lru_cache(256)
def _shared(same: str) -> tuple[str, dict[str, str]] | None:
    """The type and the headers that follow `ce-specversion`; None where they are not as we write them."""
    lines = same.split("\r\n")
    names = [line.partition(": ")[0] for line in lines[1:]]
    if names != ["ce-type", "ce-source", CONTENT_TYPE, "", ""]:
        return None
    type, source, content = (unpercent(line.partition(": ")[2]) for line in lines[1:4])
    if content.startswith(STRUCTURED):
        return None
    told = {} if source == NO_SOURCE else {"source": source}
    return type, told if content == JSON else told | {"datacontenttype": content}


def _foreign(topic: str, headers: str, value: bytes, place: str) -> Record:
    """The record of a message that somebody else may have written."""
    told: dict[str, str] = {}
    for line in headers[10:-4].split("\r\n"):
        name, _, text = line.partition(":")
        _tell(told, name.strip(), text.strip())
    return binding.record(topic, value, told, key=None, place=place)


def _tell(told: dict[str, str], name: str, text: str) -> None:
    small = name.lower()
    if name[:3] == "ce-":
        told[name[3:]] = unpercent(text)
    elif small[:3] == "ce-":
        told.setdefault(small[3:], unpercent(text))
    elif small == "nats-msg-id":
        told.setdefault("id", unpercent(text))
    elif small == CONTENT_TYPE:
        told[small] = unpercent(text)
    elif small and not small.startswith("nats-"):
        told.setdefault(small, text)


def time(headers: bytes) -> float | None:
    """When a record was told, as far as its headers say so."""
    _, found, rest = headers.partition(TIME)
    try:
        return binding.seconds(rest.partition(b"\r\n")[0].decode("ascii", "replace")) if found else None
    except DecodeError:
        return None
