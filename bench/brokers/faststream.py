"""FastStream on the same server, in the environment that `tidings bench peers` makes."""

from __future__ import annotations

from urllib.parse import urlsplit

import click

from bench.peers import compare
from bench.reading import Reading, Task


def prepare(task: Task) -> None:
    """The environment, and orders to publish."""
    compare.environment(lambda text: click.echo(text, err=True))
    compare.write_sample(task.shared)


def consume(task: Task, *, kind: str, work: str, events: int) -> Reading:
    """A backlog of its own, one event at a time."""
    peer = compare.Peer(f"FastStream on {kind}", kind, (work,), events)
    where = str(urlsplit(task.server).port)
    reading = compare.case(peer, work, where=where, sample=task.shared / compare.SAMPLE, scale=task.scale)
    return Reading(reading.value, reading.cpu, {"consume_cpu": 1e6 / reading.cpu})
