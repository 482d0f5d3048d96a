"""Records as entries of a stream and back: a field `ce_NAME` for each attribute of CloudEvents, and `data`.

Of a foreign entry the other fields are headers; where it has no `data`, they are the body, as JSON.

Entries of one kind have the same fields in the same order, so where each lies is found once for each kind, and many of
one kind are read column by column: that takes half the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

import msgspec

from tidings import binding
from tidings.binding import JSON, NO_SOURCE, STRUCTURED, seconds, stamp
from tidings.broker import Record
from tidings.errors import DecodeError
from tidings.redis.part import Entry

TYPE = "datacontenttype"
KINDS = 1000


def words(record: Record) -> list[str | bytes]:
    """The fields and values of an entry, in turn."""
    headers = record.headers
    told: list[str | bytes] = [
        "ce_specversion", "1.0", "ce_id", record.id, "ce_source", headers.get("source", NO_SOURCE),
        "ce_type", record.type, "ce_time", stamp(record.time), "ce_datacontenttype", headers.get(TYPE, JSON),
    ]  # fmt: skip
    if record.key is not None:
        told += ("ce_partitionkey", record.key)
    for name, value in headers.items():
        if name not in ("source", TYPE):
            told += ("ce_" + name, value)
    told += ("data", record.value)
    return told


class Kind(NamedTuple):
    """What is the same in entries of ours: whether they have a key, which further headers, what they say of themselves.

    Their fields are in the order of `words`.
    """

    keyed: bool
    names: tuple[str, ...]
    told: dict[str, str]


Told = tuple[bytes, ...]
"""The fields of an entry, its source and its type of content."""
Column = tuple[bytes, ...]
OURS = (b"ce_specversion", b"ce_id", b"ce_source", b"ce_type", b"ce_time", b"ce_datacontenttype")
KEY, DATA = b"ce_partitionkey", b"data"


def kind(told: Told) -> Kind | None:
    """How to read entries that tell this; None where they are not written as ours. Raises UnicodeDecodeError."""
    *names, source, content = told
    keyed = names[6:7] == [KEY]
    others = names[6 + keyed : -1]
    known = {*OURS, KEY, DATA}
    if tuple(names[:6]) != OURS or names[-1] != DATA or len(set(names)) < len(names) or known & set(others):
        return None
    if content.startswith(STRUCTURED.encode()) or not all(name.startswith(b"ce_") for name in others):
        return None
    said = {"source": (source.decode(), NO_SOURCE), TYPE: (content.decode(), JSON)}
    own = {name: text for name, (text, usual) in said.items() if text != usual}
    return Kind(keyed, tuple(name[3:].decode() for name in others), own)


class Reading:
    """Reads the entries of a topic, and remembers the kinds of them."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._kinds: dict[Told, Kind | None] = {}

    def records(self, entries: Sequence[Entry], stream: bytes) -> list[Record]:
        """The records of entries: one that tells no id is named by its stream and its id there."""
        alike = self._alike(entries)
        return self._sorted(entries, stream) if alike is None else alike

    def _sorted(self, entries: Sequence[Entry], stream: bytes) -> list[Record]:
        """Those of each kind together; what is not as ours is, or cannot be read as that, one by one."""
        kinds: dict[Told, list[int]] = {}
        for place, (_, flat) in enumerate(entries):
            kinds.setdefault((*flat[::2], *flat[5:12:6]), []).append(place)
        found: dict[int, Record] = {}
        for places in kinds.values():
            some = [entries[place] for place in places]
            alike = self._alike(some) if len(kinds) > 1 else None
            found |= zip(places, alike or [self._any(flat, stream, id) for id, flat in some], strict=True)
        return [found[place] for place in range(len(entries))]

    def _alike(self, entries: Sequence[Entry]) -> list[Record] | None:
        """Of entries that are of one kind, and ours; None for others. Whatever is done for each, is done in C."""
        try:
            columns: list[Column] = list(zip(*[flat for _, flat in entries], strict=True))
            told = (*columns[::2], *columns[5:12:6])
            if not all(map(_same, told)) or (found := self._kind(tuple(column[0] for column in told))) is None:
                return None
            _, ids, _, types, times, _, *rest, values = columns[1::2]
            keys = map(bytes.decode, rest.pop(0)) if found.keyed else repeat(None)
            rows = (repeat(self._topic), values, keys, _texts(types), map(bytes.decode, ids), _seconds(times))
            return list(map(Record, *rows, _headers(found, rest)))
        except (ValueError, DecodeError):
            return None

    def _kind(self, told: Told) -> Kind | None:
        if told not in self._kinds:
            if len(self._kinds) >= KINDS:
                self._kinds.clear()
            self._kinds[told] = kind(told)
        return self._kinds[told]

    def _any(self, flat: Sequence[bytes], stream: bytes, id: bytes) -> Record:
        fields = {flat[n].decode("utf-8", "replace"): flat[n + 1] for n in range(0, len(flat) - 1, 2)}
        value = fields.pop("data", None)
        texts = {name: text.decode("utf-8", "replace") for name, text in fields.items()}
        told = {name.removeprefix("ce_"): text for name, text in texts.items()}
        if value is None:
            value = msgspec.json.encode({name: text for name, text in texts.items() if name[:3] != "ce_"})
            told = {name[3:]: text for name, text in texts.items() if name[:3] == "ce_"}
        if TYPE in told:
            told[binding.CONTENT_TYPE] = told.pop(TYPE)
        return binding.record(self._topic, value, told, key=None, place=f"{stream.decode()}:{id.decode()}")


def _same(column: Column) -> bool:
    """Whether all say the same."""
    return column.count(column[0]) == len(column)


def _texts(column: Column) -> Iterable[str]:
    return repeat(column[0].decode(), len(column)) if _same(column) else map(bytes.decode, column)


def _headers(found: Kind, columns: Sequence[Column]) -> Iterable[dict[str, str]]:
    """Of each: what all have is made once."""
    if all(map(_same, columns)):
        return repeat(
            found.told | {name: column[0].decode() for name, column in zip(found.names, columns, strict=True)}
        )
    rows = zip(*map(_texts, columns), strict=True)
    return (found.told | dict(zip(found.names, row, strict=True)) for row in rows)


def _seconds(column: Column) -> list[float]:
    """Times as `stamp` writes them, which mostly share their second; or in any form of RFC 3339. Raises DecodeError."""
    second = column[0][:20]
    micros = [int(time[20:26]) for time in column if len(time) == 27 and time[:20] == second and time[26] == 90]
    if len(micros) < len(column):
        return [seconds(time.decode()) for time in column]
    start = int(seconds(second[:19].decode() + "Z")) * 1_000_000
    return [(start + each) / 1_000_000 for each in micros]
