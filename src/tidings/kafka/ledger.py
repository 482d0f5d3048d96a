"""What a group remembers of one partition: more than Kafka's one number, in the text that Kafka keeps beside it.

Kafka keeps an offset for a group: all before it is done. What was lent beyond it, what of that is done already, and how
often it was out with a member that died, stands in the offset's metadata as runs: `12x2 3x0 1x4` says that the first
twelve records have to come with attempt 2, the next three are done, and one comes with attempt 4. The records behind
come for the first time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec

from tidings.broker import Delivery

MARK = "tidings"
ROOM = 4000
"""Characters of metadata; a broker takes 4096 bytes (offset.metadata.max.bytes)."""
DONE = 0
FORM = re.compile(rf"{MARK} (\S*)((?: \d+x\d+)*)")
SHIFT = 48
WITHIN = (1 << SHIFT) - 1
"""A receipt is the ledger's number and an offset: nothing has to be looked up to know what is settled."""


class Ledger:
    """A partition that this member owns. `out` and `past` are rising, and all of `past` is behind all of `out`."""

    def __init__(self, topic: str, partition: int, offset: int, told: str = "") -> None:
        self.topic = topic
        self.name = topic
        """What our topic is called; Kafka's may have a prefix."""
        self.partition = partition
        self.number = 0
        self.leaving = False
        self.out: dict[int, Delivery] = {}
        self.past: dict[int, int] = {}
        self.next = offset
        self.tried = False
        """Whether any of `out` may have come before."""
        self.version = 0
        self.kept = 0
        self.place = ""
        """The name of the last seek that was obeyed."""
        if (found := FORM.fullmatch(told)) is not None:
            self.place = found[1]
            self._recall(found[2].split())

    def _recall(self, runs: Iterable[str]) -> None:
        for run in runs:
            count, attempt = map(int, run.split("x"))
            if attempt != DONE:
                self.past |= dict.fromkeys(range(self.next, self.next + count), attempt)
            self.next += count

    @property
    def floor(self) -> int:
        """The offset before which all is done."""
        return next(chain(self.out, self.past), self.next)

    def attempt(self, offset: int) -> int:
        """With which attempt a record that the broker gave is to be lent; 0 where it is out or done."""
        if offset >= self.next:
            return 1
        return self.past.get(offset, DONE)

    def lend(self, delivery: Delivery) -> None:
        """It is out. What was to come before it is no longer kept by the broker."""
        offset = delivery.receipt & WITHIN
        while self.past and (first := next(iter(self.past))) <= offset:
            del self.past[first]
        if offset >= self.next:
            self.next = offset + 1
        self.tried |= delivery.attempt > 1
        self.out[offset] = delivery

    def take_back(self, deliveries: Iterable[Delivery]) -> None:
        """These, the last that were lent, are not out: they come again as they came."""
        again = {
            each.receipt & WITHIN: each.attempt for each in deliveries if self.out.pop(each.receipt & WITHIN, None)
        }
        self.past = again | self.past
        self.version += 1

    def renewed(self, number: int) -> list[Delivery]:
        """Nothing that was lent under the old number counts any more: what was out, to be lent under the new one."""
        self.number = number
        again = [msgspec.structs.replace(each, receipt=number << SHIFT | offset) for offset, each in self.out.items()]
        self.take_back(list(self.out.values()))
        return again

    def move(self, name: str, offset: int) -> None:
        """Begin anew at this offset, as a seek of this name wants it."""
        self.place = name
        self.next = offset
        self.out.clear()
        self.past.clear()
        self.version += 1

    def told(self) -> str:
        """The metadata: what comes with which attempt if this member dies now."""
        self.tried &= bool(self.out)
        text = f"{MARK} {self.place}"
        runs = [f" {count}x{attempt}" for count, attempt in self._runs()]
        while len(text) + sum(map(len, runs)) > ROOM:
            runs = shortened(runs)
        return text + "".join(runs)

    def _runs(self) -> Iterator[tuple[int, int]]:
        at = self.floor
        if not self.past and len(self.out) == self.next - at and not self.tried:  # as usual: one run
            if self.out:
                yield len(self.out), 2
            return
        begin, attempt = at, -1
        out = ((offset, each.attempt + 1) for offset, each in self.out.items())
        for offset, again in chain(out, self.past.items()):
            if offset != at and attempt != DONE:
                if at > begin:
                    yield at - begin, attempt
                begin, attempt = at, DONE
            if again != attempt:
                if offset > begin:
                    yield offset - begin, attempt
                begin, attempt = offset, again
            at = offset + 1
        if at > begin:
            yield at - begin, attempt
        if self.next > at:
            yield self.next - at, DONE


def shortened(runs: list[str]) -> list[str]:
    """Half as many runs: what is done between two that are not is forgotten, and comes once more after a death."""
    pairs = [(int(count), int(attempt)) for count, attempt in (run.split("x") for run in runs)]
    merged = [
        (one[0] + other[0], min(attempt for attempt in (one[1], other[1]) if attempt != DONE))
        for one, other in zip(pairs[::2], pairs[1::2], strict=False)
    ]
    merged += [pairs[-1]] if len(pairs) % 2 else []
    return [f" {count}x{attempt}" for count, attempt in merged]
