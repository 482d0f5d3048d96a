"""What is written of a part, durably: who has it, and how often its member died with a record out.

RabbitMQ counts how often it got a record back, be it that the member died, left in order, or only lost its connection,
and it counts all that was on its way to a member. An attempt is more than that: it must not be counted where a member
lives, and it must not make records suspect for ever because they lay beside one that kills. So a part has a book, a
queue whose only message is written as a whole. A member that begins says that it lends (`open`); one that leaves in
order, that it does not. Who finds an open book of a member that is dead knows that what comes again was out with it.
From then on, until that is settled, what is lent is written down before (`out`): at the next death nothing else counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import msgspec


class Book(msgspec.Struct, frozen=True, omit_defaults=True):
    """`suspect`: what comes again and is not in `tries` was out once with a member that died."""

    number: int = 0
    owner: str = ""
    open: bool = False
    suspect: bool = False
    tries: Mapping[str, int] = {}
    out: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether nothing is known of any record."""
        return not (self.suspect or self.tries)

    def begun(self, member: str, *, died: bool) -> Book:
        """What the next member writes; `died` is whether the one before did."""
        tries, suspect = dict(self.tries), self.suspect
        if died and self.open:
            suspect = True
        elif died:
            tries |= {mark: tries.get(mark, 0) + 1 for mark in self.out}
        return Book(self.number + 1, member, not (suspect or tries), suspect, tries)

    def lending(self, out: Iterable[str], tries: Mapping[str, int]) -> Book:
        """These are out, with so many deaths behind them."""
        return Book(self.number + 1, self.owner, False, self.suspect, dict(tries), tuple(out))

    def recovered(self) -> Book:
        """All of which something was known is settled."""
        return Book(self.number + 1, self.owner, True)

    def left(self, tries: Mapping[str, int]) -> Book:
        """Nobody has the part; this is known of what was not settled."""
        return Book(self.number + 1, "", False, False, dict(tries))


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Book).decode


def latest(messages: Iterable[bytes]) -> Book:
    """The book that was written last; an empty one where there is none. What is no book is passed over."""
    found = [Book()]
    for message in messages:
        with contextlib.suppress(msgspec.MsgspecError):
            found.append(decode(message))
    return max(found, key=lambda book: book.number)
