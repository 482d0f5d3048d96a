"""`tidings dead`: what handlers gave up on, by cause; look at it, mend it, give it back or drop it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from tidings import dead as wire
from tidings.broker import Record
from tidings.cli import payload
from tidings.cli.letters import Cause, Choice, Letter, Selection, alone, causes, chosen, one
from tidings.cli.moment import iso, local
from tidings.cli.operator import Operator, Pace
from tidings.cli.output import counted, emit, plain, progress
from tidings.cli.schemas import Schemas, check
from tidings.cli.sight import sight
from tidings.cli.target import broker_option, connected, json_option, store_option
from tidings.clock import Clock
from tidings.codec import MISFITS, MSGPACK
from tidings.errors import TidingsError

RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/([smh]))?")
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

handler_option = click.option("--handler", help="The handler, where the event died in several.")
Command = Callable[..., None]


class Place(NamedTuple):
    """Where dead letters are, as the flags say it."""

    broker: str | None
    store: str | None


@click.group()
def dead() -> None:
    """Dead letters: events that a handler gave up on, kept until somebody replays or drops them.

    An ID is that of the event, as the logs have it.
    """


@dead.command("list")
@click.argument("handler", required=False)
@broker_option
@json_option
def list_(handler: str | None, broker: str | None, as_json: bool) -> None:
    """Group the dead letters of all handlers or of one by what they died of, the most frequent first."""
    with progress("reading dead letters", quiet=as_json):
        found = asyncio.run(_causes(handler, broker))
    if not found and not as_json:
        click.echo("There are no dead letters.")
        return
    emit([_row(cause, iso if as_json else local) for cause in found], as_json)


async def _causes(handler: str | None, broker: str | None) -> list[Cause]:
    async with sight(broker) as there:
        return await causes(there.letters(handler))


def _row(cause: Cause, when: Callable[[float], str | None]) -> dict[str, Any]:
    return {
        "handler": cause.handler, "error": cause.error, "cause": cause.cause, "count": cause.number,
        "first": when(cause.first), "last": when(cause.last), "example": cause.example,
    }  # fmt: skip


@dead.command()
@click.argument("id")
@handler_option
@broker_option
@json_option
def show(id: str, handler: str | None, broker: str | None, as_json: bool) -> None:
    """Show one dead letter: its payload, what it died of and where, and how it was edited."""
    letter = asyncio.run(_one(id, handler, broker))
    headers = letter.record.headers
    when = iso if as_json else local
    facts = {
        "id": letter.id, "handler": letter.handler, "topic": headers.get(wire.ORIGIN_TOPIC),
        "type": letter.record.type, "key": letter.record.key, "published": when(letter.record.time),
        "died": when(letter.died), "attempts": int(headers.get(wire.ATTEMPTS, 0)), "error": letter.error,
        "cause": letter.cause, "where": headers.get(wire.TRACE),
    }  # fmt: skip
    if as_json:
        body = {name: value for name, value in payload.as_mapping(letter.record).items() if name.startswith("data")}
        emit({**facts, **body, "history": letter.history, "headers": dict(headers)}, as_json)
        return
    emit({name: str(fact) for name, fact in facts.items() if fact is not None}, as_json)
    for edit in letter.history:
        click.echo(f"before {local(float(edit['at']))}: {plain(str(edit['before']))}")
    click.echo(payload.pretty(letter.record))


async def _one(id: str, handler: str | None, broker: str | None) -> Letter:
    async with sight(broker) as there:
        return await one(there.letters(handler), id)


@dead.command()
@click.argument("id")
@click.option(
    "--set", "changes", multiple=True, metavar="PATH=VALUE", help="Change a field: total=9.90, items.0.sku=b-1."
)
@click.option(
    "--file", type=click.Path(dir_okay=False, allow_dash=True), help="Take the payload from a file, - for stdin."
)
@click.option("--app", metavar="MODULE:APP", help="Check the payload against the event's class.")
@handler_option
@broker_option
@store_option
@json_option
def edit(id: str, as_json: bool, app: str | None, **flags: Any) -> None:
    """Change the payload of a dead letter before it is replayed. What it was stays in its history.

    VALUE is JSON, or else text. The letter keeps its place among those of its key.
    """
    if bool(flags["changes"]) == (flags["file"] is not None):
        raise click.UsageError(
            "Say what to change: either --set PATH=VALUE, more than once if need be, or --file FILE."
        )
    place = Place(flags["broker"], flags["store"])
    letter = asyncio.run(_one(id, flags["handler"], place.broker))
    value = _mended(letter.record, flags["changes"], flags["file"])
    if app is not None:
        event, _ = Schemas(app).find(letter.record.type)
        check(event, msgspec.json.encode(payload.decoded(_with(letter.record, value))))
    asyncio.run(_edit(letter, value, place))
    if as_json:
        emit(
            {"id": letter.id, "handler": letter.handler, "data": payload.decoded(_with(letter.record, value))}, as_json
        )
    else:
        click.echo(f"Edited {plain(letter.id)}; `tidings dead replay --id {plain(letter.id)}` gives it to its handler.")


def _with(record: Record, value: bytes) -> Record:
    return msgspec.structs.replace(record, value=value)


def _mended(record: Record, changes: tuple[str, ...], file: str | None) -> bytes:
    """The new payload, in the encoding of the old one. Raises click.UsageError."""
    if file is None:
        data = payload.decoded(record)
        for change in changes:
            data = payload.changed(data, change)
    else:
        try:
            text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
            data = msgspec.json.decode(text)
        except OSError as error:
            raise click.UsageError(f"{file} cannot be read: {error.strerror}.") from error
        except MISFITS as error:
            raise click.UsageError(f"{file} is not JSON: {error}.") from error
        if record.headers.get("datacontenttype") != MSGPACK:
            return text.strip()
    return payload.encoded(data, record)


async def _edit(letter: Letter, value: bytes, place: Place) -> None:
    clock = Clock()
    pace = Pace(0, clock)
    async with sight(place.broker) as there:
        selection = await alone(there.letters(letter.handler), letter)
    async with connected(*place) as connection, Operator(connection, letter.handler, clock) as operator:
        counts = [count async for count in operator.settle(selection, lambda old: wire.edited(old, value, clock), pace)]
    if not sum(counts):
        raise TidingsError(f"{letter.id} is with another operator just now; nothing was changed. Try again.")


def choosing(command: Command) -> Command:
    """The flags of a `Choice`."""
    for option in (
        click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest first."),
        click.option("--error", help="Only those that died of this class, such as ValueError."),
        click.option("--id", "ids", multiple=True, help="Only this one; may be given more than once."),
        click.argument("handler", required=False),
    ):
        command = option(command)
    return command


@dead.command()
@choosing
@click.option("--rate", default="100/s", show_default=True, metavar="N/s", help="How fast at most; 0 for no limit.")
@broker_option
@store_option
@json_option
def replay(rate: str, broker: str | None, store: str | None, as_json: bool, **flags: Any) -> None:
    """Give dead letters back to their handler, those of a key in order; all of them, or those that the flags choose."""
    _settle(Choice(**flags), Place(broker, store), as_json, rate=_rate(rate))


@dead.command()
@choosing
@click.option("--yes", is_flag=True, help="Do not ask.")
@broker_option
@store_option
@json_option
def drop(yes: bool, broker: str | None, store: str | None, as_json: bool, **flags: Any) -> None:
    """Forget dead letters for good: all of them, or those that the flags choose. Asks first."""
    choice, place = Choice(**flags), Place(broker, store)
    if not yes:
        count = _count(asyncio.run(_chosen(choice, place.broker)))
        if count:
            click.confirm(f"Drop {counted(count, 'dead letter')} for good?", abort=True, err=True)
    _settle(choice, place, as_json, rate=None)


async def _chosen(choice: Choice, broker: str | None) -> dict[str, Selection]:
    async with sight(broker) as there:
        return await chosen(there.letters(choice.handler), choice)


def _rate(text: str) -> float:
    rate = RATE.fullmatch(text)
    if rate is None:
        raise click.UsageError(f"--rate {text!r} is no rate; write 100/s, 30/m or 0.")
    return float(rate[1]) / SECONDS[rate[2] or "s"]


def _settle(choice: Choice, place: Place, as_json: bool, *, rate: float | None) -> None:
    """Replay at a rate, or drop where there is none."""
    verb = "dropped" if rate is None else "replayed"
    with progress("reading dead letters", quiet=as_json):
        wanted = asyncio.run(_chosen(choice, place.broker))
    count, done = _count(wanted), 0
    if count:
        with progress(verb, count, quiet=as_json) as bar:
            done = asyncio.run(_settle_all(wanted, place, rate, bar))
    if as_json:
        emit({verb: done, "left": count - done}, as_json)
    else:
        click.echo(f"{verb.capitalize()} {counted(done, 'dead letter')}.")
    if done < count:
        raise TidingsError(
            f"{counted(count - done, 'dead letter')} could not be {verb}: another operator has them just now, "
            "or has settled them."
        )


def _count(selections: dict[str, Selection]) -> int:
    return sum(len(selection.wanted) for selection in selections.values())


async def _settle_all(
    wanted: dict[str, Selection], place: Place, rate: float | None, bar: Callable[[int], None]
) -> int:
    clock, done = Clock(), 0
    pace = Pace(rate or 0.0, clock)
    async with connected(*place) as connection:
        for handler, selection in wanted.items():
            revive = partial(wire.revived, handler=handler, clock=clock)
            async with Operator(connection, handler, clock) as operator:
                async for count in operator.settle(selection, _nothing if rate is None else revive, pace):
                    done += count
                    bar(count)
    return done


def _nothing(_: Record) -> None:
    """What is made of a letter that is dropped."""
