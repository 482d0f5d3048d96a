"""Records as messages of NATS and back: CloudEvents on headers, with the prefix `ce-` and percent-encoded values."""

from __future__ import annotations

import re
from urllib.parse import quote

from tidings import binding
from tidings.binding import CONTENT_TYPE, STRUCTURED, unpercent
from tidings.broker import Record
from tidings.errors import DecodeError, InvalidEvent

NAME = re.compile(r"[!#-9;-~]+")
MOST = 60_000
"""Bytes of headers; JetStream keeps at most 64 KiB, with some of its own."""
TIME = b"\r\nce-time: "


def message(record: Record) -> tuple[bytes, bytes]:
    """Headers and body of a message: in structured mode where NATS does not take that much as headers."""
    told = headers(record)
    if len(told) <= MOST:
        return told, record.value
    identity = f"NATS/1.0\r\nNats-Msg-Id: {quote(record.id)}\r\n{CONTENT_TYPE}: {STRUCTURED}\r\n\r\n"
    return identity.encode(), binding.structure(record)


def headers(record: Record) -> bytes:
    """The headers of a message in binary mode. Raises InvalidEvent for a name that NATS cannot carry."""
    told = binding.percent(binding.attributes(record).items(), "ce-")
    lines = [f"{name}: {value}\r\n" for name, value in told.items()]
    for name in record.headers:
        if NAME.fullmatch(name) is None:
            raise InvalidEvent(f"NATS cannot carry a header of the name {name!r}: letters, digits, - and _ only")
    return f"NATS/1.0\r\nNats-Msg-Id: {told['ce-id']}\r\n{''.join(lines)}\r\n".encode()


def record(topic: str, headers: bytes, value: bytes, place: str) -> Record:
    """The record of a message. `place` is the id of one that has none."""
    told: dict[str, str] = {}
    for line in headers[10:-4].decode("utf-8", "replace").split("\r\n"):
        name, _, text = line.partition(":")
        text = text.strip()
        if name[:3] == "ce-":
            told[name[3:]] = unpercent(text)
        else:
            _foreign(told, name.strip().lower(), text)
    return binding.record(topic, value, told, key=None, place=place)


def _foreign(told: dict[str, str], name: str, text: str) -> None:
    if name.startswith("ce-"):
        told.setdefault(name[3:], unpercent(text))
    elif name == "nats-msg-id":
        told.setdefault("id", unpercent(text))
    elif name and not name.startswith("nats-"):
        told.setdefault(name, text)


def time(headers: bytes) -> float | None:
    """When a record was told, as far as its headers say so."""
    _, found, rest = headers.partition(TIME)
    try:
        return binding.seconds(rest.partition(b"\r\n")[0].decode("ascii", "replace")) if found else None
    except DecodeError:
        return None
