"""What the workers have noted, added up: who settled what and when, and whether every event is accounted for."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import msgspec

from tidings.flood.notes import BACK, DERIVED, FOREIGN, SETTLED, Block


class Marks:
    """Numbers of events, and when each was dealt with, in seconds on the monotonic clock."""

    def __init__(self) -> None:
        self.at = array("d")
        self.numbers = array("I")

    def add(self, block: Block) -> None:
        """All of a block happened at once."""
        self.at.extend(array("d", [block.at]) * len(block.numbers))
        self.numbers.extend(block.numbers)


class Ledger:
    """By group what it settled, by topic what handlers published, by group how many it handed back."""

    def __init__(self) -> None:
        self.settled: dict[str, Marks] = {}
        self.told: dict[str, Marks] = {}
        self.back: Counter[str] = Counter()

    def take(self, block: Block) -> None:
        """Enter a block."""
        if block.kind == BACK:
            self.back[block.name] += len(block.numbers)
            return
        marks = self.settled if block.kind == SETTLED else self.told
        marks.setdefault(block.name, Marks()).add(block)

    @property
    def events(self) -> int:
        """How many were settled, by whichever group."""
        return sum(len(marks.numbers) for marks in self.settled.values())


class Account(msgspec.Struct, frozen=True):
    """What became of the events that a group had to settle. `twice`: settled more than once.

    `missing` are not settled; of them, `arrivals` are known by their numbers.
    """

    settled: int
    missing: int
    twice: int
    arrivals: Sequence[int]


def account(ledger: Ledger, group: str, *, topics: Collection[str], acked: Sequence[bool], topic: Callable[[int], str]
            ) -> Account:  # fmt: skip
    """Compare what a group has settled with what was acknowledged on its topics.

    Arrivals are told apart one by one. What handlers published in answer has ids of its own, which are not kept: those
    are counted. What is still waiting is among the missing.
    """
    seen = bytearray(len(acked))
    derived = twice = 0
    marks = ledger.settled.get(group, Marks())
    for number in marks.numbers:
        if number == FOREIGN:
            continue
        if number >= DERIVED:
            derived += 1
        elif seen[number]:
            twice += 1
        else:
            seen[number] = 1
    missing = [number for number, was in enumerate(acked) if was and not seen[number] and topic(number) in topics]
    told = sum(sum(1 for number in ledger.told[name].numbers if number != FOREIGN)
               for name in topics if name in ledger.told)  # fmt: skip
    return Account(sum(seen) + derived, len(missing) + max(told - derived, 0), twice + max(derived - told, 0), missing)
