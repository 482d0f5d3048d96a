"""Records as messages of NATS and back: CloudEvents on headers, with the prefix `ce-` and percent-encoded values."""

from __future__ import annotations

import re

from tidings import binding
from tidings.binding import unpercent
from tidings.broker import Record
from tidings.errors import InvalidEvent

NAME = re.compile(r"[!#-9;-~]+")
OURS = ("nats-", "ce-")


def headers(record: Record) -> bytes:
    """The headers of a message. Raises InvalidEvent for a name that NATS cannot carry."""
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
