"""Dead letters as an operator sees them: found in the catalog, chosen by flags, grouped by what they died of."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Iterator
from typing import Any, NamedTuple

import click
import msgspec

from tidings import dead
from tidings.broker import Record
from tidings.cli.catalog import known
from tidings.embedded.catalog import Catalog

VARYING = re.compile(r"\b(?=\w*\d)[\w-]+|'[^']*'|\"[^\"]*\"")
BLANK = "\N{HORIZONTAL ELLIPSIS}"


class Letter(NamedTuple):
    """A dead letter that nobody has replayed or dropped."""

    handler: str
    record: Record

    @property
    def id(self) -> str:
        """The id of the event that died: the one that logs name, and the same after an edit."""
        return self.record.headers.get(dead.ORIGIN, self.record.id)

    @property
    def error(self) -> str:
        """The class of what the handler raised."""
        return self.record.headers.get(dead.ERROR, "?")

    @property
    def cause(self) -> str:
        """What it said."""
        return self.record.headers.get(dead.CAUSE, "")

    @property
    def died(self) -> float:
        """When the handler gave up, in seconds since the epoch."""
        try:
            return float(self.record.headers.get(dead.DIED, ""))
        except ValueError:
            return self.record.time

    @property
    def history(self) -> list[dict[str, Any]]:
        """What its payload was before each edit, and when that was."""
        return msgspec.json.decode(self.record.headers.get(dead.HISTORY, "[]"), type=list[dict[str, Any]])


class Choice(NamedTuple):
    """Which dead letters, as the flags say it."""

    handler: str | None = None
    ids: tuple[str, ...] = ()
    error: str | None = None
    limit: int | None = None

    def fits(self, letter: Letter) -> bool:
        """Whether it is chosen, the limit aside."""
        named = not self.ids or letter.id in self.ids or letter.record.id in self.ids
        return named and self.error in (None, letter.error)


class Selection:
    """What an operator does with the dead letters of a handler: some are wanted, some have to move out of their way.

    The letters of a key come one after the other, so none can be settled past another. Where one that is not wanted is
    before one that is, all of the key that are not wanted go to the end, in their order.
    """

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.moved: set[str] = set()
        self._others: dict[str | None, list[str]] = {}
        self._passed: set[str | None] = set()

    def add(self, letter: Letter, *, wanted: bool) -> None:
        """The next letter, in their order."""
        key, id = letter.record.key, letter.record.id
        if wanted:
            self.wanted.add(id)
            if key in self._others:
                self.moved.update(self._others.pop(key))
                self._passed.add(key)
        elif key in self._passed:
            self.moved.add(id)
        elif key is not None:
            self._others.setdefault(key, []).append(id)


class Cause(NamedTuple):
    """Dead letters of one handler that died of the same."""

    handler: str
    error: str
    cause: str
    number: int
    first: float
    last: float
    example: str


def handlers(there: Catalog) -> list[str]:
    """The handlers that may have dead letters."""
    return [group.removeprefix(dead.OPERATOR) for group in there.groups() if group.startswith(dead.OPERATOR)]


def letters(there: Catalog, handler: str | None = None) -> Iterator[Letter]:
    """The open dead letters of a handler or of all, in the order in which they died. Raises click.UsageError."""
    names = handlers(there)
    for name in names if handler is None else [known(handler, names, "handler")]:
        for record in there.unsettled(dead.topic_of(name), dead.operator_of(name)):
            yield Letter(name, record)


async def chosen(found: AsyncIterable[Letter], choice: Choice) -> dict[str, Selection]:
    """What the flags choose of these, by handler. Raises click.UsageError for an id that is not there."""
    selections: dict[str, Selection] = {}
    named: set[str] = set()
    count = 0
    async for letter in found:
        wanted = choice.fits(letter) and count != choice.limit
        selections.setdefault(letter.handler, Selection()).add(letter, wanted=wanted)
        count += wanted
        named |= {letter.id, letter.record.id} if wanted else set()
    if choice.limit is None and choice.error is None and (missing := [id for id in choice.ids if id not in named]):
        raise click.UsageError(f"There is no open dead letter {missing[0]}; `tidings dead list` shows what there is.")
    return {handler: selection for handler, selection in selections.items() if selection.wanted}


async def one(letters: AsyncIterable[Letter], id: str) -> Letter:
    """The dead letter of this id. Raises click.UsageError where there is none, or one of several handlers."""
    found = [letter async for letter in letters if Choice(ids=(id,)).fits(letter)]
    if not found:
        raise click.UsageError(f"There is no open dead letter {id}; `tidings dead list` shows what there is.")
    if len(found) > 1:
        names = ", ".join(letter.handler for letter in found)
        raise click.UsageError(f"{id} is a dead letter of {names}; say which with --handler.")
    return found[0]


async def causes(found: AsyncIterable[Letter]) -> list[Cause]:
    """Grouped by handler, error and cause, the most frequent first; words with digits and quoted ones may vary."""
    groups: dict[tuple[str, str, str], Cause] = {}
    async for letter in found:
        shape = VARYING.sub(BLANK, letter.cause)
        key = (letter.handler, letter.error, shape)
        had = groups.get(key)
        if had is None:
            groups[key] = Cause(*key[:2], letter.cause, 1, letter.died, letter.died, letter.id)
        else:
            groups[key] = had._replace(
                cause=letter.cause if letter.cause == had.cause else shape,
                number=had.number + 1,
                first=min(had.first, letter.died),
                last=max(had.last, letter.died),
            )
    return sorted(groups.values(), key=lambda cause: (-cause.number, cause.handler))


async def alone(found: AsyncIterable[Letter], letter: Letter) -> Selection:
    """The selection of one letter that will go to the end itself: all others of its key move too."""
    selection = Selection()
    async for other in found:
        if other.record.id == letter.record.id:
            selection.wanted.add(other.record.id)
        elif letter.record.key is not None and other.record.key == letter.record.key:
            selection.moved.add(other.record.id)
    return selection
