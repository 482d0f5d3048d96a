"""`tidings topics`: what there is, how much of it and since when."""

from __future__ import annotations

import asyncio

import click

from tidings.cli.catalog import internal
from tidings.cli.moment import iso, local
from tidings.cli.output import emit
from tidings.cli.sight import sight
from tidings.cli.target import broker_option, json_option, monitor_option
from tidings.survey import Topic


@click.command()
@click.option("--all", "everything", is_flag=True, help="Also the topics of dead letters and of replays.")
@monitor_option
@broker_option
@json_option
def topics(everything: bool, monitor: str | None, broker: str | None, as_json: bool) -> None:
    """List the topics: how many events each keeps, from when to when, and which groups hear it.

    Bytes are those of payloads and headers; of files they are counted up to 100,000 events. What a server does not tell
    is left out.
    """
    found = [topic for topic in asyncio.run(_topics(broker, monitor)) if everything or not internal(topic.name)]
    if not found and not as_json:
        click.echo("There are no topics yet.")
        return
    emit([_row(topic, as_json) for topic in found], as_json)


async def _topics(broker: str | None, monitor: str | None) -> list[Topic]:
    async with sight(broker, monitor) as there:
        return await there.topics()


def _row(topic: Topic, as_json: bool) -> dict[str, object]:
    when = iso if as_json else local
    return {
        "topic": topic.name,
        "events": topic.events,
        "delayed": topic.delayed,
        "first": when(topic.first),
        "last": when(topic.last),
        "bytes": topic.size,
        "groups": topic.groups if as_json else ", ".join(name for name in topic.groups if not internal(name)),
    }
