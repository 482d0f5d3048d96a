"""`tidings bridge`: what is published at one broker is published at another."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

from tidings.broker import Broker, Start
from tidings.cli.catalog import file_of, internal
from tidings.cli.moment import Moment
from tidings.cli.output import counted, emit, progress
from tidings.cli.target import json_option
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect
from tidings.embedded.catalog import Catalog
from tidings.errors import ConfigError
from tidings.moving.bridge import Bridge, End, mark
from tidings.moving.target import place_of


class Wish(NamedTuple):
    """What is to be carried, from where."""

    topics: Sequence[str]
    start: Start | float


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--topic", "topics", multiple=True, help="This topic, and others that are named; by default all of a file."
)
@click.option(
    "--from",
    "start",
    type=Moment(),
    default="end",
    help="Where a new bridge begins: end (the default), start or a time.",
)
@json_option
def bridge(source: str, target: str, topics: tuple[str, ...], start: Start | float, as_json: bool) -> None:
    """Publish at TO what is published at FROM, until SIGTERM or Ctrl-C.

    Ids, keys and times stay as they are. FROM remembers how far it is: it goes on where it stopped. For both directions
    start one in each: no event goes back to where it has been, as long as both name the brokers by the same URLs.
    """
    if _place(source) == _place(target):
        raise ConfigError(f"FROM and TO are both {_place(source)}; a bridge leads from one broker to another.")
    wish = Wish(topics or _topics(source), start)
    done = asyncio.run(_run(source, target, wish, quiet=as_json))
    if as_json:
        emit({"from": _place(source), "to": _place(target), "topics": wish.topics, **done}, as_json)
    else:
        click.echo(f"{counted(done['carried'], 'event')} carried over; {done['kept_back']:,} had been there before.")


def _place(url: str) -> str:
    """What a broker is called in the header of events."""
    return f"sqlite:{file_of(url)}" if urlsplit(url).scheme in ("sqlite", "memory") else place_of(url)


def _topics(source: str) -> list[str]:
    """Those of a file but the ones of dead letters; a server has to be told. Raises ConfigError."""
    if urlsplit(source).scheme != "sqlite":
        raise ConfigError("Which topics? A server is not asked for all that it has: name them with --topic.")
    path = file_of(source)
    if not path.is_file():
        raise ConfigError(f"There is no database at {path}: name the file that the app runs on, sqlite:PATH.")
    with Catalog(path) as there:
        topics = [name for name in there.topic_names() if not internal(name)]
    if not topics:
        raise ConfigError(f"{path} has no topics yet: name those that will come with --topic.")
    return topics


async def _run(source: str, target: str, wish: Wish, *, quiet: bool) -> dict[str, int]:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with _open(source) as here, _open(target) as there:
        with progress("carrying over", quiet=quiet) as bar:
            ends = (End(here, mark(_place(source))), End(there, mark(_place(target))))
            carrying = Bridge(*ends, Clock(), bar)
            await carrying.run(wish.topics, wish.start, stop)
    return {"carried": carrying.carried, "kept_back": carrying.kept_back}


@contextlib.asynccontextmanager
async def _open(url: str) -> AsyncGenerator[Broker]:
    """A broker by itself: a bridge has no state but its position."""
    connection = connect(msgspec.structs.replace(load(broker=url), store=None), Clock())
    await connection.open()
    try:
        yield connection.broker
    finally:
        await connection.close()
