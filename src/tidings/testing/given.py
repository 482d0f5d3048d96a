"""Specifications that read as a sentence, and run on the real engine.

    await given(app, OrderPlaced(order="o1")).when(PaymentTaken(order="o1")).then(OrderShipped(order="o1"))

Each runs on a broker of its own that is empty at first, with a clock that stands still but for `Later`; see Kit.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from types import EllipsisType, MappingProxyType
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from tidings.app import App
from tidings.clock import Clock
from tidings.codec import Codec, Reader
from tidings.message import Event
from tidings.store import Table
from tidings.testing.difference import AnyOrder, Item, Some, explain, fits, gaps
from tidings.testing.kit import Kit
from tidings.testing.outcome import Named, Outcome, Scene, Watch, is_named

V = TypeVar("V")


class Fact(Protocol):
    """What may stand in `given` and `when` beside events: something that is done."""

    async def happen(self, kit: Kit) -> None:
        """Do it, and what follows at once."""
        ...


Happening: TypeAlias = Event | Sequence[Event] | Fact
"""An event, several that are told at once, or another fact."""
Expected: TypeAlias = Item | Outcome
"""An event, `Some`, `AnyOrder`, `...` or another outcome."""


def given(
    apps: App | Sequence[App],
    *past: Happening,
    only: Named | None = None,
    provide: Mapping[type, Any] = MappingProxyType({}),
) -> Given:
    """Begin a specification of an app, or of several, with what has happened before.

    The handlers handle the past as well: that is how state comes about. `only` is a handler, by its name or its
    function, that is specified alone: no other one runs. `provide` is what handlers get by type instead of what the
    apps provide: `provide={Mailer: FakeMailer()}`.
    """
    return Given(Stage([apps] if isinstance(apps, App) else [*apps], only, provide), past)


class Stage(NamedTuple):
    """What is specified: apps, of which one handler or all run, with these dependencies in place of theirs."""

    apps: Sequence[App]
    only: Named | None
    provide: Mapping[type, Any]


class Given:
    """What was; see given."""

    def __init__(self, stage: Stage, past: Sequence[Happening]) -> None:
        self._stage, self._past = stage, past

    def when(self, *happenings: Happening) -> When:
        """What happens now, one after the other, each when what the one before it led to is settled."""
        return When(self._stage, self._past, happenings)


class When:
    """What happens; see given."""

    def __init__(self, stage: Stage, past: Sequence[Happening], happenings: Sequence[Happening]) -> None:
        self._stage, self._past, self._happenings = stage, past, happenings

    async def then(self, *expected: Expected) -> None:
        """Run it, and compare what came of it.

        The events are all that handlers publish from `when` on, in this order; no events mean that none is. Every
        dead letter and every failure that is to be tried again has to be named, by Dead and Failed.
        Raises AssertionError that says all that is not as expected; what handlers raised unexpectedly is its cause.
        """
        __tracebackhide__ = True  # pytest: show the line of the test
        events, outcomes = _sorted(expected)
        async with _playing(self._stage) as kit:
            watch = Watch(kit)
            for happening in self._past:
                await _happen(happening, kit)
            await watch.begin()
            for happening in self._happenings:
                await _happen(happening, kit)
            await kit.settle(failures="keep")
            published = await watch.published([*_classes(events)])
            scene = await watch.scene()
            lines = await _differences(events, published, outcomes, scene)
        if lines:
            raise AssertionError("\n".join(["not as specified", *lines])) from scene.cause()


@contextlib.asynccontextmanager
async def _playing(stage: Stage) -> AsyncGenerator[Kit]:
    """The apps in a kit, without the handlers that are not meant."""
    apps, only = stage.apps, stage.only
    all_handlers = {app: app.handlers for app in apps}
    try:
        for app, handlers in all_handlers.items():
            if only is not None:
                app.handlers = {name: handler for name, handler in handlers.items() if is_named(handler, only)}
        if not any(app.handlers for app in apps):
            known = ", ".join(name for handlers in all_handlers.values() for name in handlers) or "none"
            raise AssertionError(f"there is no handler {only!r}; there are: {known}")
        async with Kit(*apps, provide=stage.provide) as kit:
            yield kit
    finally:
        for app, handlers in all_handlers.items():
            app.handlers = handlers


async def _happen(happening: Happening, kit: Kit) -> None:
    if isinstance(happening, Event):
        await kit.publish(happening)
    elif isinstance(happening, Sequence):
        await kit.publish(*happening)
    else:
        await happening.happen(kit)
    await kit.advance(0.0)  # settles what it leads to, and leaves a handler alone that waits for a time to come


def _sorted(expected: Sequence[Expected]) -> tuple[list[Item], list[Outcome]]:
    events: list[Item] = []
    outcomes: list[Outcome] = []
    for each in expected:
        if isinstance(each, (Event, Some, AnyOrder, EllipsisType)):
            events.append(_as_told(each) if isinstance(each, Event) else each)
        else:
            outcomes.append(each)
    return events, outcomes


def _as_told(event: Event) -> Event:
    """The event as it is once it was published. Raises InvalidEvent for one that cannot be."""
    record = Codec("given", Clock()).encode(event)
    decoded: Event = Reader({record.type: type(event)}).decode(record)
    return decoded


def _classes(events: Sequence[Item]) -> Iterator[type[Event]]:
    for item in events:
        if isinstance(item, AnyOrder):
            yield from _classes(item.events)
        elif isinstance(item, Some):
            yield item.event
        elif isinstance(item, Event):
            yield type(item)


async def _differences(
    events: Sequence[Item], published: Sequence[Any], outcomes: Sequence[Outcome], scene: Scene
) -> list[str]:
    lines: list[str] = []
    if not fits(events, published):
        lines += ["published:", textwrap.indent("\n".join(explain(events, published)), "  ")]
    for outcome in outcomes:
        lines += await outcome.differs(scene)
    return lines + scene.surprises()


# -- facts and outcomes beside events


class Later(msgspec.Struct, frozen=True):
    """So many seconds pass: delayed events, retries and time limits come when they are due."""

    seconds: float

    async def happen(self, kit: Kit) -> None:
        """See Fact."""
        await kit.advance(self.seconds)


class Row(msgspec.Struct, Generic[V], frozen=True):
    """A row of a Table: as a fact it is written, as an outcome it is there; with None it is not."""

    table: Table[V]
    key: str
    value: V | None

    async def happen(self, kit: Kit) -> None:
        """See Fact."""
        async with kit.apps[0].transaction() as tx:
            if self.value is None:
                tx.delete(self.table, self.key)
            else:
                tx.put(self.table, self.key, self.value)

    async def differs(self, scene: Scene) -> Sequence[str]:
        """See Outcome."""
        where = f"row {self.key!r} of {self.table.name}"
        return [f"{where}: {gap}" for gap in gaps(self.value, await scene.kit.row(self.table, self.key))]


class Sql:
    """A statement of your own SQL, with values for its placeholders: as a fact it is run; see also `says`."""

    def __init__(self, statement: str, *values: object) -> None:
        self.statement, self.values = statement, values

    async def happen(self, kit: Kit) -> None:
        """See Fact."""
        await kit.sql(self.statement, *self.values)

    def says(self, *rows: tuple[Any, ...]) -> Outcome:
        """The outcome that it returns these rows."""
        return _Said(self, [*rows])


class _Said(msgspec.Struct, frozen=True):
    sql: Sql
    rows: list[tuple[Any, ...]]

    async def differs(self, scene: Scene) -> Sequence[str]:
        found = await scene.kit.sql(self.sql.statement, *self.sql.values)
        return [f"{self.sql.statement}: {gap}" for gap in gaps(self.rows, found)]
