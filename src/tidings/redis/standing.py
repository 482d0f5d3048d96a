"""A group on a topic as one of its members sees it: what it has, and what it asks the server for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tidings.redis import scripts
from tidings.redis.connection import pairs
from tidings.redis.content import Reading
from tidings.redis.naming import Place
from tidings.redis.part import Change, Part
from tidings.redis.wire import Command, Wire, call
from tidings.roster import Life, Sign


class Sight(NamedTuple):
    """A group on a topic at one moment: whose each part is, and who gave which sign."""

    owners: dict[int, str]
    members: dict[str, Sign]
    told: dict[str, str]


class Standing:
    """Of one member; `me` is its name."""

    def __init__(self, place: Place, me: str, life: Life) -> None:
        self.place = place
        self.reading = Reading(place.topic.name)
        self.life = life
        self.parts: dict[int, Part] = {}
        self.bell = b"0-0"
        self.rung = b""
        self.missing: dict[int, float] = {}  # parts that the server has lost, and since when
        self.stood: dict[int, bytes] = {}  # where parts were when they were lost, until it is known who has them
        self.wire: Wire | None = None  # over which it was last seen where streams end
        self._me = me
        self._count = 0
        self._dead: dict[str, str] = {}

    async def sign(self, wire: Wire) -> Sight | None:
        """Give a sign of life and see the others; None where the group is gone."""
        self._count += 1
        keys = (self.place.state, self.place.bell)
        dead = [word for pair in self._dead.items() for word in pair]
        found = await wire.run(scripts.SIGN, keys, (self._me, self._count, *dead))
        self._dead = {}
        return None if found is None else self._sight(pairs(found))

    def _sight(self, told: Mapping[str, str]) -> Sight:
        sight = Sight({}, {}, {})
        for name, value in told.items():
            if name.startswith("o:"):
                sight.owners[int(name[2:])] = value
            elif name.startswith("m:"):
                count, _, ms = value.partition(":")
                sight.members[name[2:]] = Sign(int(count), int(ms) / 1000)
                sight.told[name[2:]] = value
        return sight

    def bury(self, sight: Sight, alive: Sequence[str]) -> None:
        """Those that have been silent for long, and have nothing any more, are forgotten with the next sign."""
        self._dead = {
            name: sign
            for name, sign in sight.told.items()
            if name not in alive and name not in sight.owners.values() and name != self._me
        }

    async def claim(self, wire: Wire, wanted: Mapping[int, str]) -> None:
        """Become the owner of these parts, as far as they still are whose they were."""
        keys = [self.place.state, *(self.place.done(number) for number in wanted)]
        words: list[str | int] = [word for pair in wanted.items() for word in pair]
        for number, position, count, deaths, beyond in await wire.run(scripts.CLAIM, keys, (self._me, *words)):
            part = Part(number, self.place.topic.streams[number], position, count)
            self.parts[number] = part.remember(deaths.decode(), beyond)

    async def release(self, wire: Wire, numbers: Iterable[int], *, leave: bool = False) -> None:
        """These are nobody's; what is out of them comes again and is no attempt."""
        words = (self._me, "leave" if leave else "stay", *numbers)
        await wire.run(scripts.RELEASE, (self.place.state, self.place.bell), words)

    async def restore(self, wire: Wire, positions: Mapping[int, bytes]) -> int:
        """The server has lost where the group stands in these parts: it is there. Returns how many were missing."""
        topic = self.place.topic
        keys: list[str | bytes] = [topic.groups, self.place.state, *(topic.streams[number] for number in positions)]
        words: list[int | bytes] = [word for pair in positions.items() for word in pair]
        return int(await wire.run(scripts.RESTORE, keys, (self.place.group, *words)))

    def lend(self, lasts: Mapping[int, bytes]) -> Command:
        """What writes up to where parts are lent."""
        words: list[int | bytes] = [word for pair in lasts.items() for word in pair]
        return call(scripts.LEND, [self.place.state], [self._me, *words])

    def done(self, changes: Mapping[int, Change]) -> Command:
        """What writes up to where parts are done."""
        keys = [self.place.state, *(self.place.done(number) for number in changes)]
        words: list[Any] = [self._me]
        for number, change in changes.items():
            words += (number, change.position, change.done, change.deaths, len(change.beyond), len(change.passed))
            words += change.beyond
            words += change.passed
        return call(scripts.DONE, keys, words)
