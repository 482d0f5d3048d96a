"""`tidings tail`: events as they come, through a private view that disturbs no group."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click

from tidings.broker import Broker, Record, Start, Subscription
from tidings.cli.catalog import catalog, internal, known
from tidings.cli.moment import Moment
from tidings.cli.output import emit, plain
from tidings.cli.payload import as_mapping, in_a_line, shortened
from tidings.cli.target import broker_option, connected, json_option
from tidings.clock import Clock
from tidings.embedded.catalog import Catalog

PAGE = 200
FETCH_WAIT = 5.0  # seconds
LOOK_FOR_TOPICS = 1.0
WIDTH_OF_A_PIPE = 500


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
@json_option
def tail(topics: tuple[str, ...], broker: str | None, as_json: bool, **flags: Any) -> None:
    """Show events as they are published, of all topics or of these; no group is disturbed.

    What is there already comes in the order of its time. With --json, one object a line, named as in CloudEvents.
    """
    asyncio.run(_tail(topics, broker, as_json, Wish(**flags)))


async def _tail(topics: Sequence[str], broker: str | None, as_json: bool, wish: Wish) -> None:
    with catalog(broker) as there:
        for topic in topics:
            known(topic, there.topic_names(), "topic")
        async with connected(broker) as connection:
            tail = Tail(connection.broker, wish, as_json)
            await tail.start(topics or public(there))
            await tail.history()
            if wish.follow:
                await tail.live(None if topics else there)


def public(there: Catalog) -> list[str]:
    """The topics that are not named by tidings itself."""
    return [topic for topic in there.topic_names() if not internal(topic)]


class Tail:
    """A view of each topic, shown in the order of time as far as there is one."""

    def __init__(self, broker: Broker, wish: Wish, as_json: bool) -> None:
        self.views: dict[str, Subscription] = {}
        self._broker = broker
        self._wish = wish
        self._as_json = as_json
        self._shown = 0
        self._done = asyncio.Event()

    async def start(self, topics: Sequence[str]) -> None:
        """Look at these from where the user wants to begin."""
        for topic in topics:
            self.views[topic] = await self._broker.subscribe([topic], None, self._wish.begin)

    async def history(self) -> None:
        """Show what is there, all topics merged by time."""
        pages: dict[str, deque[Record]] = {topic: deque() for topic in self.views}
        while pages and not self._done.is_set():
            for topic, page in list(pages.items()):
                if not page:
                    page.extend(delivery.record for delivery in await self.views[topic].fetch(PAGE, 0))
                if not page:
                    del pages[topic]
            if pages:
                self._show(min(pages.values(), key=lambda page: page[0].time).popleft())

    async def live(self, there: Catalog | None) -> None:
        """Show what comes; with a catalog, also what comes on topics that are new."""
        clock = Clock()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._pump(view)) for view in self.views.values()]
            while not await clock.wait(self._done, LOOK_FOR_TOPICS):
                for topic in public(there) if there else ():
                    if topic not in self.views:
                        self.views[topic] = await self._broker.subscribe([topic], None, Start.EARLIEST)
                        tasks.append(group.create_task(self._pump(self.views[topic])))
            for task in tasks:
                task.cancel()

    async def _pump(self, view: Subscription) -> None:
        while True:
            for delivery in await view.fetch(PAGE, FETCH_WAIT):
                self._show(delivery.record)

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


def in_color(record: Record) -> str:
    """One line for a person, as wide as the terminal."""
    time = datetime.fromtimestamp(record.time, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH_OF_A_PIPE
    head = "  ".join([time, plain(record.type), plain(record.key or "-"), ""])
    return click.style(head, bold=True) + shortened(in_a_line(record), max(width - len(head), 20))
