"""A part of the keys in the hands of a member: where it stands, what was read ahead, what is out and what is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Entry = Sequence[Any]
"""As it comes: its id, and its fields and values in turn."""
TOGETHER = 64
"""How many suspects of one death are lent together."""


class Change(NamedTuple):
    """What is to be written of a part. `done` entries lie up to its position; `beyond` is newly done beyond it.

    `passed` was done beyond it, and no longer lies there.
    """

    position: bytes
    done: int
    deaths: str
    beyond: list[bytes]
    passed: list[bytes]


def order(id: bytes | str) -> tuple[int, int]:
    """The id of an entry, as it compares."""
    first, _, second = (id.decode() if isinstance(id, bytes) else id).partition("-")
    return int(first), int(second or 0)


class Part:
    """One part of a topic. `leaving` is until when (monotonic) what is out may be settled before it goes."""

    def __init__(self, number: int, stream: bytes, position: bytes, count: int) -> None:
        self.number = number
        self.stream = stream
        self.position = position
        self.count = count
        self.read = position
        self.buffer: deque[Entry] = deque()
        self.leaving: float | None = None
        self.deaths: list[tuple[int, int]] = []
        self.beyond: set[bytes] = set()
        self.dirty = False
        self._lending = 0
        self._open: deque[bytes] = deque()
        self._kept: set[bytes] = set()  # of `beyond`, what the server has or was sent
        self._fresh: dict[bytes, None] = {}
        self._passed: dict[bytes, None] = {}

    def remember(self, deaths: str, beyond: Iterable[bytes]) -> Part:
        """What was written of it by the members before."""
        self.deaths = [order(each) for each in deaths.split()]
        self.beyond = set(beyond)
        self._kept = set(self.beyond)
        return self

    @property
    def pending(self) -> int:
        """How many are out or about to be, at least: nothing where it is 0."""
        return len(self._open) + self._lending

    @property
    def suspected(self) -> bool:
        """Whether the next to be lent was out with a member that died."""
        return bool(self.deaths and self.buffer) and self.attempt(self.buffer[0][0]) > 1

    def attempt(self, id: bytes) -> int:
        """How often this is lent, when it is lent now."""
        if not self.deaths:
            return 1
        place = order(id)
        return 1 + sum(death >= place for death in self.deaths)

    def take(self, limit: int) -> list[Entry]:
        """The next entries, until they are `lent` or `put_back`. Of suspects a few together, after two deaths one."""
        taken = self._next(limit)
        self._lending = len(taken)
        return taken

    def _next(self, limit: int) -> list[Entry]:
        buffer, taken = self.buffer, list[Entry]()
        if not self.deaths and len(buffer) <= limit:
            taken += buffer
            buffer.clear()
            return taken
        if not self.suspected:
            while buffer and len(taken) < limit and not self.suspected:
                taken.append(buffer.popleft())
            return taken
        attempt = self.attempt(buffer[0][0])
        limit = min(limit, TOGETHER) if attempt == 2 else 1
        while buffer and len(taken) < limit and self.attempt(buffer[0][0]) == attempt:
            taken.append(buffer.popleft())
        return taken

    def put_back(self, entries: Sequence[Entry]) -> None:
        """These were not lent after all."""
        self._lending = 0
        self.buffer.extendleft(reversed(entries))

    def lent(self, entries: Iterable[Entry]) -> None:
        """These are out. Those that are done are passed."""
        self._lending = 0
        self._open.extend([id for id, _ in entries])
        if self.beyond:
            self._advance()

    def settle(self, ids: Iterable[bytes]) -> None:
        """They are done."""
        self.dirty = True
        for id in ids:
            if self._open and self._open[0] == id:
                self._open.popleft()
                self.position = id
                self.count += 1
                if self.beyond:
                    self._advance()
            else:
                self.beyond.add(id)
                self._fresh[id] = None

    def _advance(self) -> None:
        while self._open and self._open[0] in self.beyond:
            id = self.position = self._open.popleft()
            self.count += 1
            self.dirty = True
            self.beyond.discard(id)
            self._fresh.pop(id, None)
            if id in self._kept:
                self._passed[id] = None

    def change(self) -> Change:
        """What is to be written now. Until `written` is called it is told again."""
        if self.deaths:
            place = order(self.position)
            self.deaths = [death for death in self.deaths if death > place]
        self._kept.update(self._fresh)
        deaths = " ".join(f"{first}-{second}" for first, second in self.deaths)
        self.dirty = False
        return Change(self.position, self.count, deaths, list(self._fresh), list(self._passed))

    def written(self, change: Change) -> None:
        """The server has it."""
        for id in change.beyond:
            self._fresh.pop(id, None)
        for id in change.passed:
            self._passed.pop(id, None)
            self._kept.discard(id)

    def beyond_end(self, last: bytes) -> bool:
        """Whether what was read does not lie in the stream any more, whose last id this is."""
        return order(last) < order(self.read)

    def step_back(self, place: bytes, count: int) -> None:
        """What comes after this is new, whatever was known of it; so many entries lie before."""
        if order(place) < order(self.position):
            self.position, self.count, self.dirty = place, count, True

    def rewind(self) -> None:
        """What was out comes again, as if it had not been lent."""
        self._lending = 0
        self._open.clear()
        self.buffer.clear()
        self.read = self.position
        self.leaving = None


def oldest_first(parts: Iterable[Part]) -> list[Part]:
    """By what is next in each."""
    return sorted(parts, key=lambda part: order(part.buffer[0][0]))
