"""`tidings replay`: move a handler's group back, so that it handles again what it has handled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import click

from tidings.broker import Feature, Start
from tidings.cli.catalog import internal, known
from tidings.cli.moment import Moment, iso, local
from tidings.cli.output import counted, emit
from tidings.cli.sight import sight
from tidings.cli.target import broker_option, connected, json_option, store_option
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect
from tidings.errors import ConfigError

ENDS = {Start.EARLIEST: "start", Start.LATEST: "end"}


class Move(NamedTuple):
    """A topic of the handler, how many of its events come again, and how many never will; None where nobody knows."""

    topic: str
    again: int | None
    skipped: int | None


@click.command()
@click.argument("handler")
@click.option("--from", "start", type=Moment(), required=True, help="start, end, a time, or how long ago: 2h.")
@click.option("--topic", help="This topic only; by default all that the handler hears.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@broker_option
@store_option
@json_option
def replay(handler: str, start: Start | float, yes: bool, as_json: bool, **given: str | None) -> None:
    """Move the group of HANDLER, such as shop.reserve, to a place in its log. Asks first.

    Every event from there on is handled again: mails are sent again, money is moved again, unless the handler knows
    what it has done. It is safe while workers run: what they hold just now is fenced and comes again. Beside a server
    name the store of the app, in which is known what it has done. RabbitMQ keeps nothing that could come again.
    """
    config = load(broker=given["broker"], store=given["store"])
    if Feature.REPLAY not in connect(config, Clock()).broker.features:
        raise ConfigError(
            "This broker keeps nothing that a group has handled, so nothing can come again. Publish it once more, or "
            "let the app use NATS, Kafka, Redis, PostgreSQL or a file."
        )
    moves = asyncio.run(_moves(given["broker"], handler, given["topic"], start))
    if not yes:
        click.echo(_warning(handler, moves, start), err=True)
        click.confirm("Go on?", abort=True, err=True)
    asyncio.run(_seek(moves, handler, start, given))
    to = ENDS[start] if isinstance(start, Start) else iso(start)
    if as_json:
        emit({"handler": handler, "from": to, "topics": [move._asdict() for move in moves]}, as_json)
    else:
        again = [move.again for move in moves if move.again is not None]
        what = counted(sum(again), "event") if len(again) == len(moves) else f"what came since {to}"
        click.echo(f"{handler} handles {what} again.")


async def _moves(broker: str | None, handler: str, topic: str | None, start: Start | float) -> list[Move]:
    async with sight(broker) as there:
        groups = await there.groups()
        heard = groups[known(handler, (name for name in groups if not internal(name)), "handler")]
        topics = [name for name in heard if not internal(name)] if topic is None else [known(topic, heard, "topic")]
        return [Move(name, *await there.move(name, handler, start)) for name in topics]


def _warning(handler: str, moves: Sequence[Move], start: Start | float) -> str:
    where = f"the {ENDS[start]}" if isinstance(start, Start) else local(start)
    lines = [f"{handler} goes to {where}:"]
    for move in moves:
        again = "what came since then" if move.again is None else counted(move.again, "event")
        lines.append(f"  {move.topic}: {again} will be handled again, with all that the handler does.")
        if move.skipped != 0:
            skipped = "what came before" if move.skipped is None else counted(move.skipped, "event")
            lines.append(f"  {move.topic}: {skipped} that it has not handled yet will be SKIPPED for good.")
    return "\n".join(lines)


async def _seek(moves: Sequence[Move], handler: str, start: Start | float, given: dict[str, str | None]) -> None:
    async with connected(given["broker"], given["store"]) as connection:
        for move in moves:
            await connection.broker.seek(move.topic, handler, start)
