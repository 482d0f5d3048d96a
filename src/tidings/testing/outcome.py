"""What came of a specification: the events that were published, what was given up on, and what is to be tried again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import msgspec

from tidings.broker import Delivery, Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.codec import Reader
from tidings.dead import ORIGIN, PREFIX, REPLAY
from tidings.errors import DecodeError
from tidings.handler import Handler
from tidings.message import Event, contract_of
from tidings.testing.kit import Kit, Letter

Named: TypeAlias = str | Callable[..., Any]
"""A handler: its name, with or without the app's, or its function."""

UNSETTLED = """SELECT g.name, l.id FROM tidings_ack a
    JOIN tidings_feed f ON f.id = a.feed JOIN tidings_group g ON g.id = f.grp JOIN tidings_log l ON l.pos = a.pos
    WHERE a.state != 0"""


class Unread(NamedTuple):
    """An event of a type that none of the handlers knows."""

    type: str
    body: bytes


class Failure(NamedTuple):
    """What a handler raised, after its tries at once."""

    handler: str
    delivery: Delivery
    error: BaseException

    def __str__(self) -> str:
        record = self.delivery.record
        return f"{self.handler} raised {self.error!r} on {record.type} (key {record.key!r})"


def is_named(handler: Handler, named: Named) -> bool:
    """Whether this is the handler that is meant."""
    if isinstance(named, str):
        return named in (handler.name, handler.name.partition(".")[2])
    return handler.function is named


class Watch:
    """Sees what handlers raise, and where the log is when the past ends and what happens begins."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.failures: list[Failure] = []
        self.past = 0
        for app in kit.apps:
            for worker in app.workers:
                worker.watcher = self._watcher(worker.bound.name)

    def _watcher(self, handler: str) -> Callable[[Delivery, BaseException], None]:
        return lambda delivery, error: self.failures.append(Failure(handler, delivery, error))

    @property
    def _broker(self) -> SqliteBroker:
        connection = self.kit.apps[0].connection
        assert connection is not None
        assert isinstance(connection.broker, SqliteBroker)
        return connection.broker

    async def begin(self) -> None:
        """What is in the log by now is the past."""
        self.past = max((delivery.receipt for delivery in await self._log()), default=0)

    async def published(self, expected: Sequence[type[Event]]) -> list[Any]:
        """What handlers have published since the past, in order, as the expected classes or those of handlers."""
        reader = Reader(self._types(expected))
        deliveries = [delivery for delivery in await self._log() if delivery.receipt > self.past]
        return [_read(delivery.record, reader) for delivery in deliveries if _told(delivery.record)]

    def _types(self, expected: Sequence[type[Event]]) -> dict[str, type]:
        types: dict[str, type] = {}
        for app in self.kit.apps:
            for worker in app.workers:
                types |= {
                    contract_of(cls).name: cls for cls in worker.bound.may_publish or () if issubclass(cls, Event)
                }
                types |= worker.bound.types
        return types | {contract_of(cls).name: cls for cls in expected}

    async def _log(self) -> list[Delivery]:
        """All of it, in the order in which it was published: a receipt is the position in the log."""
        view = await self._broker.subscribe([*self._broker.topics], None, Start.EARLIEST)
        try:
            found: list[Delivery] = []
            while deliveries := await view.fetch(1000, 0.0):
                found += deliveries
        finally:
            await view.close()
        return sorted(found, key=lambda delivery: delivery.receipt)

    async def scene(self) -> Scene:
        """What came of it, as far as it is not published."""
        unsettled = {(group, record) for group, record in await self.kit.sql(UNSETTLED)}
        waiting = {(each.handler, each.delivery.record.id): each for each in self.failures}
        return Scene(
            self.kit,
            {handler.name: handler for app in self.kit.apps for handler in app.handlers.values()},
            await self.kit.dead(),
            [failure for where, failure in waiting.items() if where in unsettled],
            {(each.handler, each.delivery.record.id): each.error for each in self.failures},
        )


class Scene(NamedTuple):
    """What came of it. Who expects a dead letter or a failure takes it away; what is left is a surprise."""

    kit: Kit
    handlers: Mapping[str, Handler]
    letters: list[Letter]
    waiting: list[Failure]
    """Those whose event will be tried again."""
    errors: Mapping[tuple[str, str], BaseException]
    """What was raised last, by handler and id of the record."""

    def error(self, letter: Letter) -> BaseException | None:
        """What the handler raised that led to a dead letter."""
        return self.errors.get((letter.handler, letter.record.headers[ORIGIN]))

    def is_named(self, handler: str, named: Named) -> bool:
        """Whether this is the handler that is meant."""
        return is_named(self.handlers[handler], named)

    def cause(self) -> BaseException | None:
        """What handlers raised that nobody expected."""
        errors = [failure.error for failure in self.waiting]
        errors += [error for letter in self.letters if (error := self.error(letter)) is not None]
        return BaseExceptionGroup("handlers raised", errors) if errors else None

    def surprises(self) -> list[str]:
        """What nobody expected."""
        return [
            *(f"unexpected: {failure}; it will be tried again" for failure in self.waiting),
            *(f"unexpected: {told(letter)}" for letter in self.letters),
        ]


class Outcome(Protocol):
    """What may stand in `then` beside events: something to look at when all has happened."""

    async def differs(self, scene: Scene) -> Sequence[str]:
        """Lines that say what is not as expected; none where all is."""
        ...


class Dead(msgspec.Struct, frozen=True):
    """The handler gave up on one event, with an error of this class: a dead letter.

    `match` is searched for in the error's text, as a regular expression; `attempts` counts how often it was lent.
    """

    handler: Named
    error: type[BaseException] = Exception
    match: str = ""
    event: Event | None = None
    attempts: int | None = None

    async def differs(self, scene: Scene) -> Sequence[str]:
        """See Outcome."""
        for letter in scene.letters:
            if self._is(letter, scene):
                scene.letters.remove(letter)
                return []
        wanted = [f"{name}={getattr(self, name)!r}" for name in ("match", "event", "attempts") if getattr(self, name)]
        said = f" with {', '.join(wanted)}" if wanted else ""
        return [f"missing: that {_name(self.handler)} gave up because of {self.error.__name__}{said}"]

    def _is(self, letter: Letter, scene: Scene) -> bool:
        error = scene.error(letter)
        return (
            scene.is_named(letter.handler, self.handler)
            and (isinstance(error, self.error) if error is not None else letter.error == self.error.__name__)
            and re.search(self.match, letter.cause) is not None
            and self.event in (None, letter.event)
            and self.attempts in (None, letter.attempts)
        )


class Failed(msgspec.Struct, frozen=True):
    """The handler raised an error of this class, and its event will be tried again. Stands for all such events."""

    handler: Named
    error: type[BaseException] = Exception
    match: str = ""

    async def differs(self, scene: Scene) -> Sequence[str]:
        """See Outcome."""
        meant = [failure for failure in scene.waiting if self._is(failure, scene)]
        for failure in meant:
            scene.waiting.remove(failure)
        said = f" with match={self.match!r}" if self.match else ""
        return [] if meant else [f"missing: that {_name(self.handler)} raised {self.error.__name__}{said}"]

    def _is(self, failure: Failure, scene: Scene) -> bool:
        return (
            scene.is_named(failure.handler, self.handler)
            and isinstance(failure.error, self.error)
            and re.search(self.match, str(failure.error)) is not None
        )


def told(letter: Letter) -> str:
    """A dead letter in a line."""
    what = letter.event if letter.event is not None else letter.record.type
    return f"{letter.handler} gave up on {what!r} after {letter.attempts} attempts: {letter.error}: {letter.cause}"


def _name(named: Named) -> str:
    return named if isinstance(named, str) else str(getattr(named, "__name__", named))


def _told(record: Record) -> bool:
    """Whether an app published it, and not the specification or the engine."""
    return record.headers.get("source") != "kit" and not record.topic.startswith((PREFIX, REPLAY))


def _read(record: Record, reader: Reader) -> Any:
    try:
        return reader.decode(record)
    except (DecodeError, KeyError):
        return Unread(record.type, record.value)
