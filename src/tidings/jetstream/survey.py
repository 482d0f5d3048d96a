"""Looking at a NATS server: its settings, and the topics and groups that lie there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import msgspec

from tidings.binding import seconds
from tidings.clock import Clock
from tidings.errors import BrokerError
from tidings.jetstream import address, naming
from tidings.jetstream.checkup import Account, Disk, Seen, Stream, Variables, examine
from tidings.jetstream.connection import Connection
from tidings.jetstream.server import DEADLINE, NO_STREAM, Problem, Refused, call, fields
from tidings.jetstream.wire import Question
from tidings.monitor import Monitor
from tidings.survey import Census, Finding, Topic, Wish

MONITORING = 8222
MOST_MEMBERS = 1024


class Listing(msgspec.Struct):
    """A page of the streams."""

    total: int = 0
    streams: list[Stream] = []
    error: Problem | None = None


class Usage(Account):
    """What the account uses, or why that is not told."""

    error: Problem | None = None


class Subjects(msgspec.Struct):
    """How many messages lie on each subject of a stream."""

    subjects: dict[str, int] = {}


class Described(msgspec.Struct):
    """A page of the subjects of a stream."""

    total: int = 0
    state: Subjects = msgspec.field(default_factory=Subjects)
    error: Problem | None = None


class Surveyor:
    """See survey.Surveyor."""

    def __init__(self, url: str, clock: Clock, monitor: str | None = None) -> None:
        self._monitor = None if monitor is None else Monitor(monitor)
        self._address = address.parse(url)
        self._connection = Connection(self._address, clock)
        self._bucket = f"KV_{self._address.prefix}"

    async def open(self) -> None:
        """See survey.Surveyor."""
        await self._connection.open()

    async def close(self) -> None:
        """See survey.Surveyor."""
        await self._connection.close()

    async def findings(self, wish: Wish) -> Sequence[Finding]:
        """See survey.Surveyor."""
        wire = self._connection.wire()
        version = wire.connected_server_version
        account = await call(wire, "INFO", {}, Usage)
        try:
            writes, why = await self._writes(), ""
        except BrokerError as error:
            writes, why = None, str(error)
        seen = Seen(
            version=f"{version.major}.{version.minor}.{version.patch}",
            max_payload=wire.max_payload,
            account=account,
            streams=[each async for each in self._streams()],
            bucket=self._bucket,
            writes=writes,
            why=why,
        )
        return list(examine(seen, self._address, wish))

    async def _writes(self) -> Disk:
        """How the server writes to its disk: only its monitoring says. By itself that of the usual port is asked."""
        place = self._connection.wire().connected_url
        host = "127.0.0.1" if place is None else place.hostname
        page = await (self._monitor or Monitor(f"http://{host}:{MONITORING}")).page("/varz")
        told = msgspec.convert(page, Variables)
        if told.server_id != self._connection.wire().server_id:
            raise BrokerError("the monitoring that answers is that of another server")
        return told.jetstream.config

    async def _streams(self) -> AsyncGenerator[Stream]:
        """Those of our prefix, the bucket among them."""
        done = 0
        while True:
            page = await call(self._connection.wire(), "STREAM.LIST", {"offset": done}, Listing)
            for each in page.streams:
                if each.config.name == self._bucket or self._named(each):
                    yield each
            done += len(page.streams)
            if done >= page.total or not page.streams:
                return

    def _named(self, stream: Stream) -> str | None:
        """The topic of a stream, if it is one of ours."""
        begin = f"{self._address.prefix}_"
        if naming.METADATA not in stream.config.metadata or not stream.config.name.startswith(begin):
            return None
        return naming.name(stream.config.name.removeprefix(begin))

    async def census(self) -> Census:
        """See survey.Surveyor."""
        groups: dict[str, list[str]] = {}
        async for subject in self._subjects(f"$KV.{self._address.prefix}.*.*.0"):
            topic, group = map(naming.name, subject.split(".")[2:4])
            groups.setdefault(topic, []).append(group)
        topics = [
            _topic(name, each, sorted(groups.get(name, ())))
            async for each in self._streams()
            if (name := self._named(each)) is not None
        ]
        members = dict.fromkeys((group for found in groups.values() for group in found), 0)
        for group, alive in (await self._members()).items():
            members[group] = len(alive)
        return Census(sorted(topics), members)

    async def _subjects(self, pattern: str) -> AsyncGenerator[str]:
        done = 0
        while True:
            try:
                asked = {"subjects_filter": pattern, "offset": done}
                page = await call(self._connection.wire(), f"STREAM.INFO.{self._bucket}", asked, Described)
            except Refused as refused:
                if refused.number == NO_STREAM:
                    return
                raise
            for subject in page.state.subjects:
                yield subject
            done += len(page.state.subjects)
            if done >= page.total or not page.state.subjects:
                return

    async def _members(self) -> dict[str, set[str]]:
        """Who gave a sign of life that has not passed, by group."""
        body = msgspec.json.encode({"multi_last": [f"$KV.{self._address.prefix}.*.*.member.*"], "batch": MOST_MEMBERS})
        subject = f"$JS.API.DIRECT.GET.{self._bucket}".encode()
        found: dict[str, set[str]] = {}
        for answer in await self._connection.wire().ask_many(Question(subject, body), DEADLINE):
            told = fields(answer.headers)
            if b"KV-Operation" not in told and b"Nats-Subject" in told:
                words = told[b"Nats-Subject"].decode().split(".")
                found.setdefault(naming.name(words[3]), set()).add(words[5])
        return found


def _topic(name: str, stream: Stream, groups: list[str]) -> Topic:
    state = stream.state
    first, last = (seconds(text) if state.messages else None for text in (state.first_ts, state.last_ts))
    return Topic(name, state.messages, first, last, None, state.bytes, groups, ever=state.last_seq)
