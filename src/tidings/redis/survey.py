"""Looking at a Redis or Valkey server: its settings, and the topics and groups that lie there."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.clock import Clock
from tidings.errors import Closed
from tidings.redis import address, naming
from tidings.redis.checkup import examine
from tidings.redis.connection import Dialer, pairs
from tidings.redis.part import order
from tidings.redis.wire import Refused, Wire
from tidings.survey import Census, Finding, Topic, Wish, unmonitored

PAGE = 1000


class Surveyor:
    """See survey.Surveyor."""

    def __init__(self, url: str, clock: Clock, monitor: str | None = None) -> None:
        unmonitored(monitor)
        self._address = address.parse(url)
        self._dialer = Dialer(self._address, clock)
        self._connection: Wire | None = None

    async def open(self) -> None:
        """See survey.Surveyor."""
        self._connection = await self._dialer.dial(lambda: None)

    async def close(self) -> None:
        """See survey.Surveyor."""
        if self._connection is not None:
            self._connection.hang_up()

    @property
    def _wire(self) -> Wire:
        if self._connection is None:
            raise Closed("the connection to Redis is not open")
        return self._connection

    async def findings(self, wish: Wish) -> Sequence[Finding]:
        """See survey.Surveyor."""
        return list(examine(await self._config(), await self._info(), self._address, wish))

    async def _config(self) -> dict[str, str]:
        try:
            return pairs(await self._wire.ask("CONFIG", "GET", "*"))
        except Refused:
            return {}

    async def _info(self) -> dict[str, str]:
        try:
            text = (await self._wire.ask("INFO")).decode("utf-8", "replace")
        except Refused:
            return {}
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    async def census(self) -> Census:
        """See survey.Surveyor. Who is a member shows by its signs of life only, over time: it is not known here."""
        topics = [await self._topic(name) for name in await self._names()]
        return Census(topics, {})

    async def _names(self) -> list[str]:
        """Those with a hash of their own, among all keys of the server: found page by page."""
        begin, found, cursor = f"{self._address.prefix}:{{", set[str](), b"0"
        while True:
            cursor, page = await self._wire.ask("SCAN", cursor, "MATCH", f"{begin}*}}", "COUNT", PAGE, "TYPE", "hash")
            found |= {key.decode("utf-8", "replace")[len(begin) : -1] for key in page}
            if cursor == b"0":
                return sorted(found)

    async def _topic(self, name: str) -> Topic:
        root = naming.topic(self._address.prefix, name, 0)
        parts = int(await self._wire.ask("HGET", root.root, "parts") or 0)
        streams = naming.topic(self._address.prefix, name, parts).streams
        groups = sorted(group.decode("utf-8", "replace") for group in await self._wire.ask("SMEMBERS", root.groups))
        answers = await self._wire.ask_all(
            *(("XLEN", stream) for stream in streams),
            *(("XINFO", "STREAM", stream) for stream in streams),
            *(("MEMORY", "USAGE", stream) for stream in streams),
        )
        lengths, told, used = answers[:parts], answers[parts : 2 * parts], answers[2 * parts :]
        known = [dict(zip(each[::2], each[1::2], strict=True)) for each in told if isinstance(each, list)]
        firsts = [_time(each[b"first-entry"][0]) for each in known if each[b"first-entry"]]
        lasts = [_time(each[b"last-entry"][0]) for each in known if each[b"last-entry"]]
        return Topic(
            name,
            events=sum(each for each in lengths if isinstance(each, int)),
            first=min(firsts, default=None),
            last=max(lasts, default=None),
            delayed=None,
            size=sum(each for each in used if isinstance(each, int)),
            groups=groups,
            ever=sum(each[b"entries-added"] for each in known),
        )


def _time(id: bytes) -> float:
    return order(id)[0] / 1000
