"""`tidings bridge`: what is published at one broker is published at another."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

from tidings.broker import Start
from tidings.cli.catalog import file_of, internal
from tidings.cli.moment import Moment
from tidings.cli.output import counted, emit, progress
from tidings.cli.sight import topics_of
from tidings.cli.signals import on_stop
from tidings.cli.target import alone, json_option, monitor_option
from tidings.clock import Clock
from tidings.errors import BrokerError, ConfigError
from tidings.moving.bridge import Bridge, End, Topics, group_of, mark
from tidings.moving.target import place_of
from tidings.runtime import GAVE_UP

GRACE = 10.0
"""Seconds for what is under way when it is told to stop."""


class Wish(NamedTuple):
    """What is to be carried from where to where, as the flags say it; no topics are all that there are."""

    source: str
    target: str
    topics: Sequence[str]
    start: Start | float
    monitor: str | None


class Outcome(msgspec.Struct):
    """Of which topics how many events were carried, and how many were not because they had been there."""

    topics: list[str] = []
    carried: int = 0
    kept_back: int = 0


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--topic", "topics", multiple=True, help="This topic, and others that are named; by default all, also new ones."
)
@click.option(
    "--from",
    "start",
    type=Moment(),
    default="end",
    help="Where a new bridge begins: end (the default), start or a time.",
)
@monitor_option
@json_option
def bridge(
    source: str, target: str, topics: tuple[str, ...], start: Start | float, monitor: str | None, as_json: bool
) -> None:
    """Publish at TO what is published at FROM, until SIGTERM or Ctrl-C.

    Ids, keys and times stay as they are. FROM remembers how far it is: it goes on where it stopped. For both directions
    start one in each: no event goes back to where it has been, as long as both name the brokers by the same URLs. Exit
    code 0, and 3 if what was under way could not be settled; it comes once more the next time.
    """
    if _place(source) == _place(target):
        raise ConfigError(f"FROM and TO are both {_place(source)}; a bridge leads from one broker to another.")
    if urlsplit(source).scheme == "sqlite" and not topics and not file_of(source).is_file():
        raise ConfigError(
            f"There is no database at {file_of(source)}: name the file that the app runs on, sqlite:PATH."
        )
    done = Outcome()
    with progress("carrying over", quiet=as_json) as bar:
        in_order = asyncio.run(_run(Wish(source, target, topics, start, monitor), done, bar))
    if as_json:
        emit({"from": _place(source), "to": _place(target), **msgspec.structs.asdict(done)}, as_json)
    else:
        said = f"{counted(done.carried, 'event')} carried over; {done.kept_back:,} had been there before."
        click.echo(f"{said} The same command goes on from here.")
    sys.exit(0 if in_order else GAVE_UP)


def _place(url: str) -> str:
    """What a broker is called in the header of events."""
    return f"sqlite:{file_of(url)}" if urlsplit(url).scheme in ("sqlite", "memory") else place_of(url)


async def _run(wish: Wish, done: Outcome, bar: Callable[[int], None]) -> bool:
    """Carry until the first signal; whether all that was under way was settled before the grace or the second one."""
    stop = asyncio.Event()
    work = asyncio.create_task(_carry(wish, done, bar, stop), name="bridge")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    on_stop(lambda: work.cancel() if stop.is_set() else stop.set())
    await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait([work], timeout=GRACE)
    work.cancel()
    await asyncio.wait([work])
    stopping.cancel()
    if not work.cancelled():
        work.result()
    return not work.cancelled()


async def _carry(wish: Wish, done: Outcome, bar: Callable[[int], None], stop: asyncio.Event) -> None:
    async with alone(wish.source) as here, alone(wish.target) as there:
        ends = End(here, mark(_place(wish.source))), End(there, mark(_place(wish.target)))
        carrying = Bridge(*ends, Clock(), bar)
        try:
            await carrying.run(Search(wish, group_of(ends[1].mark)), stop)
        finally:
            done.topics, done.carried, done.kept_back = list(carrying.topics), carrying.carried, carrying.kept_back


class Search:
    """The topics that are named, or all but those of dead letters; one that came after the bridge begins at its start.

    Where the group of the bridge hears a topic already it goes on, whatever is said here.
    """

    def __init__(self, wish: Wish, group: str) -> None:
        self._wish = wish
        self._group = group
        self._begun = False

    async def __call__(self) -> Topics:
        """See Look. Raises ConfigError where the broker cannot tell its topics the first time."""
        wish = self._wish
        if wish.topics:
            return dict.fromkeys(wish.topics, wish.start)
        try:
            found = [topic for topic in await topics_of(wish.source, wish.monitor) if not internal(topic.name)]
        except BrokerError as error:
            if self._begun:
                raise
            raise ConfigError(f"Which topics? Name them with --topic, for FROM does not tell: {error}") from error
        self._begun = self._begun or any(self._group in topic.groups for topic in found)
        start = Start.EARLIEST if self._begun else wish.start
        self._begun = True
        return dict.fromkeys((topic.name for topic in found), start)
