"""`tidings replay`: move a handler's group back, so that it handles again what it has handled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import click

from tidings.broker import Start
from tidings.cli.catalog import catalog, internal, known
from tidings.cli.moment import Moment, iso, local
from tidings.cli.output import counted, emit
from tidings.cli.target import broker_option, connected, json_option
from tidings.embedded.catalog import Catalog

ENDS = {Start.EARLIEST: "start", Start.LATEST: "end"}


class Move(NamedTuple):
    """A topic of the handler, how many of its events come again, and how many never will."""

    topic: str
    again: int
    skipped: int


@click.command()
@click.argument("handler")
@click.option("--from", "start", type=Moment(), required=True, help="start, end, a time, or how long ago: 2h.")
@click.option("--topic", help="This topic only; by default all that the handler hears.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@broker_option
@json_option
def replay(handler: str, start: Start | float, yes: bool, as_json: bool, **given: str | None) -> None:
    """Move the group of HANDLER, such as shop.reserve, to a place in its log. Asks first.

    Every event from there on is handled again: mails are sent again, money is moved again, unless the handler knows
    what it has done. It is safe while workers run: what they hold just now is fenced and comes again.
    """
    broker = given["broker"]
    with catalog(broker) as there:
        moves = _moves(there, handler, given["topic"], start)
    if not yes:
        click.echo(_warning(handler, moves, start), err=True)
        click.confirm("Go on?", abort=True, err=True)
    asyncio.run(_seek(moves, handler, start, broker))
    to = ENDS[start] if isinstance(start, Start) else iso(start)
    if as_json:
        emit({"handler": handler, "from": to, "topics": [move._asdict() for move in moves]}, as_json)
    else:
        click.echo(f"{handler} handles {counted(sum(move.again for move in moves), 'event')} again.")


def _moves(there: Catalog, handler: str, topic: str | None, start: Start | float) -> list[Move]:
    groups = there.groups()
    heard = groups[known(handler, (name for name in groups if not internal(name)), "handler")]
    topics = [name for name in heard if not internal(name)] if topic is None else [known(topic, heard, "topic")]
    return [Move(name, *there.move(name, handler, start)) for name in topics]


def _warning(handler: str, moves: Sequence[Move], start: Start | float) -> str:
    where = f"the {ENDS[start]}" if isinstance(start, Start) else local(start)
    lines = [f"{handler} goes to {where}:"]
    for move in moves:
        again, skipped = counted(move.again, "event"), counted(move.skipped, "event")
        lines.append(f"  {move.topic}: {again} will be handled again, with all that the handler does.")
        if move.skipped:
            lines.append(f"  {move.topic}: {skipped} that it has not handled yet will be SKIPPED for good.")
    return "\n".join(lines)


async def _seek(moves: Sequence[Move], handler: str, start: Start | float, broker: str | None) -> None:
    async with connected(broker) as connection:
        for move in moves:
            await connection.broker.seek(move.topic, handler, start)
