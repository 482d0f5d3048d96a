"""Where in a stream a time is: records tell their own, so it is looked for by halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidings.binding import seconds
from tidings.errors import DecodeError
from tidings.redis import scripts
from tidings.redis.part import Entry, order
from tidings.redis.wire import Wire

SOME = 100


def time_of(entry: Entry) -> float:
    """When an entry says that it was published, or else when the server got it."""
    id, fields = entry
    try:
        return seconds(fields[fields.index(b"ce_time", 0) + 1].decode())
    except (ValueError, IndexError, DecodeError):
        return order(id)[0] / 1000


async def behind(wire: Wire, stream: bytes, time: float) -> bytes:
    """The id behind which the records of this time and later lie."""
    first, last = (
        await wire.ask("XRANGE", stream, "-", "+", "COUNT", 1),
        await wire.ask("XREVRANGE", stream, "+", "-", "COUNT", 1),
    )
    if not first:
        return b"0-0"
    low, high = order(first[0][0])[0], order(last[0][0])[0] + 1
    while low < high:
        middle = (low + high) // 2
        found = await wire.ask("XRANGE", stream, middle, "+", "COUNT", 1)
        if not found or time_of(found[0]) >= time:
            high = middle
        else:
            low = middle + 1
    return await _within(wire, stream, low - 1, time)


async def _within(wire: Wire, stream: bytes, millisecond: int, time: float) -> bytes:
    """From the beginning of a millisecond on, one by one."""
    seen = b"%d-0" % max(millisecond, 0)
    start: bytes = seen
    while found := await wire.ask("XRANGE", stream, start, "+", "COUNT", SOME):
        for entry in found:
            if time_of(entry) >= time:
                return before(entry[0])
            seen = entry[0]
        start = b"(" + seen
    return seen


def before(id: bytes) -> bytes:
    """The greatest id before this one."""
    first, second = order(id)
    return b"%d-%d" % ((first, second - 1) if second else (max(first - 1, 0), 2**64 - 1))


async def places(wire: Wire, streams: Sequence[bytes], time: float) -> list[tuple[bytes, int]]:
    """For each stream the id behind which the records of this time lie, and how many entries lie up to there."""
    found: list[tuple[bytes, int]] = []
    for stream, (last, added) in zip(streams, await wire.run(scripts.LAST, streams), strict=True):
        id = await behind(wire, stream, time)
        found.append((id, added - await _count(wire, stream, id, last)))
    return found


async def _count(wire: Wire, stream: bytes, after: bytes, last: bytes) -> int:
    count = 0
    while order(after) < order(last):
        some, after = await _some(wire, stream, after, last)
        count += some
        if not some:
            break
    return count


async def _some(wire: Wire, stream: bytes, after: bytes, last: bytes) -> tuple[int, bytes]:
    answer: Any = await wire.run(scripts.COUNT, [stream], (after, last))
    return int(answer[0]), answer[1]
