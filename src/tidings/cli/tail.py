"""`tidings tail`: events as they come, through a private view that disturbs no group."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click

from tidings.broker import Broker, Feature, Record, Start, Subscription
from tidings.cli.catalog import internal, known
from tidings.cli.moment import Moment
from tidings.cli.output import emit, plain
from tidings.cli.payload import as_mapping, in_a_line, shortened
from tidings.cli.sight import topics_of
from tidings.cli.target import alone, broker_option, json_option, monitor_option
from tidings.clock import Clock
from tidings.errors import BrokerError, Closed, ConfigError, StorageBroken, StorageError
from tidings.linked import Linked
from tidings.survey import Topic

PAGE = 200
FETCH_WAIT = 5.0
PATIENCE, QUIET = 10.0, 3.0
LOOK_FOR_TOPICS = 1.0
SELDOM = 10.0
PAUSE = 0.5
"""Seconds: for a fetch; for what a server is still to send of its history, where it is known to have more, and where
that is not known; between two looks for new topics, at the least, and how many times as long as a look takes; before a
server that has gone is asked again."""
WIDTH_OF_A_PIPE = 500


class Place(NamedTuple):
    """The URL of the broker, and of what its server tells its operators."""

    broker: str | None
    monitor: str | None


class Wish(NamedTuple):
    """What is to be shown, as the flags say it."""

    start: Start | float | None
    type: str | None
    key: str | None
    most: int | None
    follow: bool

    def fits(self, record: Record) -> bool:
        """Whether it is to be shown."""
        return self.type in (None, record.type) and self.key in (None, record.key)

    @property
    def begin(self) -> Start | float:
        """Where to begin: at the end, unless there is nothing to wait for."""
        return self.start if self.start is not None else Start.LATEST if self.follow else Start.EARLIEST

    def expected(self, topic: Topic) -> int | None:
        """How many events of a topic are there already; None where that is not known."""
        if self.begin is Start.LATEST or (isinstance(self.begin, float) and (topic.last or self.begin) < self.begin):
            return 0
        return topic.events if self.begin is Start.EARLIEST else None


@click.command()
@click.argument("topics", metavar="[TOPIC]...", nargs=-1)
@click.option(
    "--from", "start", type=Moment(), help="Where to begin; by default at the end, and with --no-follow at the start."
)
@click.option("--type", help="Only events of this type, such as order.created.")
@click.option("--key", help="Only events of this key.")
@click.option("-n", "--count", "most", type=click.IntRange(1), help="End after so many events.")
@click.option("--follow/--no-follow", default=True, help="Wait for more, until Ctrl-C (the default), or end.")
@broker_option
@monitor_option
@json_option
def tail(topics: tuple[str, ...], broker: str | None, monitor: str | None, as_json: bool, **flags: Any) -> None:
    """Show events as they are published, of all topics or of these; no group is disturbed.

    What is there already comes in the order of its time, on a server that of each of its parts. With --json, one object
    a line, named as in CloudEvents. RabbitMQ keeps no history, so there it begins at the end.
    """
    asyncio.run(_tail(topics, Place(broker, monitor), as_json, Wish(**flags)))


async def _tail(topics: Sequence[str], place: Place, as_json: bool, wish: Wish) -> None:
    found = await chosen(place, topics)
    async with alone(place.broker) as broker:
        if wish.begin is not Start.LATEST and Feature.REPLAY not in broker.features:
            raise ConfigError(
                "This broker keeps no history: what comes from now on can be shown. Leave --from and --no-follow out."
            )
        tail = Tail(broker, wish, as_json)
        await tail.start(found)
        await tail.history()
        if wish.follow:
            await tail.live(None if topics else place)


async def chosen(place: Place, names: Sequence[str]) -> list[Topic]:
    """The topics of these names, or all. Where the broker does not tell which it has, the names have to do."""
    try:
        found = {topic.name: topic for topic in await topics_of(*place)}
    except StorageError:
        raise
    except BrokerError:
        if not names:
            raise
        return [Topic(name, None, None, None, None, None, []) for name in names]
    return [found[known(name, found, "topic")] for name in names] or public(found.values())


def public(topics: Iterable[Topic]) -> list[Topic]:
    """Those that are not named by tidings itself."""
    return [topic for topic in topics if not internal(topic.name)]


class Tail:
    """A view of each topic, shown in the order of time as far as there is one."""

    def __init__(self, broker: Broker, wish: Wish, as_json: bool) -> None:
        self.views: dict[str, Subscription] = {}
        self._broker = broker
        self._wish = wish
        self._as_json = as_json
        self._patience, self._quiet = (PATIENCE, QUIET) if isinstance(broker, Linked) else (0.0, 0.0)
        self._to_come: dict[str, int | None] = {}
        self._shown = 0
        self._done = asyncio.Event()

    async def start(self, topics: Sequence[Topic]) -> None:
        """Look at these from where the user wants to begin."""
        for topic in topics:
            self.views[topic.name] = await self._broker.subscribe([topic.name], None, self._wish.begin)
            self._to_come[topic.name] = self._wish.expected(topic)

    async def history(self) -> None:
        """Show what is there, all topics merged by time."""
        pages: dict[str, deque[Record]] = {topic: deque() for topic in self.views}
        while pages and not self._done.is_set():
            empty = [topic for topic, page in pages.items() if not page]
            for topic, records in zip(empty, await asyncio.gather(*map(self._more, empty)), strict=True):
                pages[topic].extend(records)
                if not records:
                    del pages[topic]
            if pages:
                self._show(min(pages.values(), key=lambda page: page[0].time).popleft())

    async def _more(self, topic: str) -> list[Record]:
        """The next of what is there; a server is given time to send it."""
        to_come = self._to_come[topic]
        wait = self._quiet if to_come is None else self._patience if to_come > 0 else 0.0
        records = [delivery.record for delivery in await self.views[topic].fetch(PAGE, wait)]
        self._to_come[topic] = to_come and to_come - len(records)
        return records

    async def live(self, place: Place | None) -> None:
        """Show what comes; with a place, also what comes on topics that are new there."""
        clock, took = Clock(), 0.0
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._pump(view, clock)) for view in self.views.values()]
            while not await clock.wait(self._done, max(LOOK_FOR_TOPICS, SELDOM * took)):
                began = clock.monotonic()
                new = await self._new(place) if place else ()
                tasks += [group.create_task(self._pump(view, clock)) for view in new]
                took = clock.monotonic() - began
            for task in tasks:
                task.cancel()

    async def _new(self, place: Place) -> list[Subscription]:
        """Views of the topics that have come."""
        views = []
        with waiting():
            for topic in public(await topics_of(*place)):
                if topic.name not in self.views:
                    self.views[topic.name] = await self._broker.subscribe([topic.name], None, Start.EARLIEST)
                    views.append(self.views[topic.name])
        return views

    async def _pump(self, view: Subscription, clock: Clock) -> None:
        while True:
            with waiting():
                for delivery in await view.fetch(PAGE, FETCH_WAIT):
                    self._show(delivery.record)
                continue
            await clock.sleep(PAUSE)

    def _show(self, record: Record) -> None:
        if self._done.is_set() or not self._wish.fits(record):
            return
        self._shown += 1
        if self._shown == self._wish.most:
            self._done.set()
        if self._as_json:
            emit(as_mapping(record), True)
        else:
            click.echo(in_color(record))


@contextlib.contextmanager
def waiting() -> Generator[None]:
    """A server that does not answer is waited for, and that is said; what no waiting mends comes through."""
    try:
        yield
    except (Closed, StorageBroken):
        raise
    except BrokerError as error:
        click.echo(f"waiting: {plain(str(error))}", err=True)


def in_color(record: Record) -> str:
    """One line for a person, as wide as the terminal."""
    time = datetime.fromtimestamp(record.time, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH_OF_A_PIPE
    head = "  ".join([time, plain(record.type), plain(record.key or "-"), ""])
    return click.style(head, bold=True) + shortened(in_a_line(record), max(width - len(head), 20))
