"""`tidings publish`: an event from the command line, a file or a stream of JSON lines."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from tidings.broker import Broker, Record
from tidings.cli.output import counted, emit, plain, progress
from tidings.cli.schemas import Schemas, check
from tidings.cli.target import broker_option, json_option
from tidings.clock import Clock
from tidings.codec import MISFITS, Codec, explain
from tidings.config import Config, load
from tidings.connect import connect
from tidings.errors import BodyTooLarge, InvalidEvent
from tidings.message import NAME, TOPIC

SOURCE = "tidings-cli"
BATCH = 1000
CHUNK = 1 << 20

Make = Callable[[bytes], Record]


class Wish(NamedTuple):
    """What is to be published, as the flags say it."""

    type: str
    topic: str | None
    key: str | None
    delay: float | None
    id: str | None

    def due(self, clock: Clock) -> float | None:
        """When it is to be delivered."""
        return None if self.delay is None else clock.now() + self.delay


@click.command()
@click.argument("type")
@click.argument("data", metavar="JSON|@FILE|-")
@click.option("--app", metavar="MODULE:APP", help="Publish as this app does: the event class checks the fields.")
@click.option("--key", help="The unit of order. With --app, the event's class says it.")
@click.option("--topic", help="The topic; by default the noun of the type.")
@click.option("--delay", type=click.FloatRange(0), metavar="SECONDS", help="Nobody gets it before.")
@click.option("--id", help="An idempotency key: a second publish of it changes nothing.")
@broker_option
@json_option
def publish(data: str, app: str | None, broker: str | None, as_json: bool, **flags: Any) -> None:
    """Publish an event of TYPE, such as order.created, with a payload: JSON, a file, or - for JSON lines from stdin.

    It is durable when the command ends. Of a stream, all lines before a wrong one are published.
    """
    wish = Wish(**flags)
    _check(wish, app, data)
    config, make = _prepare(wish, app, broker)
    count, id = asyncio.run(_publish(config, make, data, quiet=as_json))
    if as_json:
        emit({"type": wish.type, "published": count, "id": id}, as_json)
    elif id is not None:
        click.echo(f"Published {wish.type} {plain(id)}.")
    else:
        click.echo(f"Published {count:,} {wish.type}.")


def _check(wish: Wish, app: str | None, data: str) -> None:
    if not NAME.fullmatch(wish.type):
        raise click.UsageError(f"The type {wish.type!r} is not of the form noun.verb (a-z, 0-9, _ and -).")
    if wish.topic is not None and not TOPIC.fullmatch(wish.topic):
        raise click.UsageError(f"The topic {wish.topic!r} has other characters than a-z, 0-9, _, - and dots.")
    if app is not None and (wish.key is not None or wish.topic is not None):
        raise click.UsageError("With --app the event's class says key and topic: leave --key and --topic out.")
    if wish.id is not None and data == "-":
        raise click.UsageError("--id names one event; leave it out for a stream.")


def _prepare(wish: Wish, app: str | None, broker: str | None) -> tuple[Config, Make]:
    """The settings, and how a payload becomes a record."""
    if app is None:
        config = load(broker=broker)
        return config, lambda body: _raw(wish, body, config.body_limit)
    schemas = Schemas(app)
    cls, owner = schemas.find(wish.type)
    settings: dict[str, Any] = {**owner.settings, "broker": broker or owner.settings["broker"]}
    config = load(**settings)
    codec = Codec(owner.name, owner.clock, encoding=config.encoding, limit=config.body_limit)

    def make(body: bytes) -> Record:
        return codec.encode(check(cls, body), id=wish.id, due=wish.due(owner.clock))

    return config, make


def _raw(wish: Wish, body: bytes, limit: int) -> Record:
    body, clock = body.strip(), Clock()
    try:
        msgspec.json.decode(body)
    except MISFITS as error:
        raise InvalidEvent(f"{wish.type}: the payload is not JSON: {explain(error)}") from error
    if len(body) > limit:
        raise BodyTooLarge(f"{wish.type} is {len(body)} bytes, over the limit of {limit} (`body_limit`).")
    topic = wish.topic or wish.type.rpartition(".")[0]
    headers = {"source": SOURCE}
    return Record(topic, body, wish.key, wish.type, wish.id or clock.id(), clock.now(), headers, wish.due(clock))


async def _publish(config: Config, make: Make, data: str, *, quiet: bool) -> tuple[int, str | None]:
    """How many were published, and the id where it is one."""
    one = None if data == "-" else make(_payload(data))
    broker = connect(config, Clock()).broker
    await broker.open()
    try:
        if one is not None:
            await broker.publish([one])
            return 1, one.id
        return await _publish_stream(broker, make, quiet=quiet), None
    finally:
        await broker.close()


def _payload(data: str) -> bytes:
    if not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{data[1:]} cannot be read: {error.strerror}.") from error


async def _publish_stream(broker: Broker, make: Make, *, quiet: bool) -> int:
    count, number = 0, 0
    with progress("publishing", quiet=quiet) as bar:
        async for lines in _stdin():
            records, wrong = _records(make, lines)
            await broker.publish(records)
            count += len(records)
            bar(len(records))
            if wrong is not None:
                line, error = wrong
                raise InvalidEvent(f"line {number + line}: {error}; {counted(count, 'event')} before it published.")
            number += len(lines)
    return count


def _records(make: Make, lines: Sequence[bytes]) -> tuple[list[Record], tuple[int, InvalidEvent] | None]:
    """The records of these lines up to one that is wrong, and which that is."""
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                records.append(make(line))
            except InvalidEvent as error:
                return records, (number, error)
    return records, None


async def _stdin() -> AsyncGenerator[list[bytes]]:
    """Lines in batches, each line as soon as it is there."""
    file, rest = sys.stdin.fileno(), b""
    while True:
        await _readable(file)
        chunk = os.read(file, CHUNK)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for start in range(0, len(lines), BATCH):
            yield lines[start : start + BATCH]
    if rest:
        yield [rest]


async def _readable(file: int) -> None:
    """Wait for input without a thread, which would outlive a Ctrl-C."""
    ready, loop = asyncio.Event(), asyncio.get_running_loop()
    try:
        loop.add_reader(file, ready.set)
    except PermissionError:  # a regular file: what it has is there
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(file)
