"""A performance of the play: the orders are read, somebody watches or nobody, the ledger is told."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
from collections.abc import AsyncGenerator
from itertools import islice
from typing import Any

import click
from rich.console import Console

from tidings.cli.demo.account import tell
from tidings.cli.demo.options import Options
from tidings.cli.demo.place import Place
from tidings.cli.demo.play import PATIENCE, Play, Wish, staged
from tidings.cli.demo.shop import Shop, find
from tidings.cli.demo.view import WIDTH, View, save, shown
from tidings.cli.main import FAILED, INTERRUPTED
from tidings.cli.output import plain, progress, to_json
from tidings.errors import BrokerError
from tidings.moving.target import place_of
from tidings.runtime import DRAINED

PAUSE = 1.5
"""Seconds before a killed worker is started again where somebody watches, so that one sees who takes over."""
BAR_EVERY = 0.2
"""Seconds between two steps of the progress bar."""


async def perform(options: Options, place: Place) -> int:
    """Play, and tell the ledger; returns the exit code. Raises click.ClickException for a file that cannot be read."""
    shop = find()
    past = _read(shop, options)
    wish = Wish(options.kills, options.pace, PAUSE if options.watched else 0.0)
    async with staged(shop, past, wish, place) as play:
        try:
            if not await _run(play, options):
                click.echo(f"Stopped {_how_far(play)}. {_how_to_go_on(place)}", err=True)
                return INTERRUPTED
            if play.left:
                click.echo(f"Nothing moved for {PATIENCE:g} s; events still waiting: {to_json(play.left)}", err=True)
            ledger, letters = await play.ledger()
        except BrokerError as error:
            gone = f"The shop at {place_of(place.broker)} broke off {_how_far(play)} orders: {plain(str(error))}"
            click.echo(f"{gone.rstrip('.')}. {_how_to_go_on(place)}", err=True)
            return FAILED
    if not (options.as_json and options.headless):
        tell(ledger, letters, Console(stderr=options.as_json, highlight=False))
    if options.as_json:
        click.echo(to_json(ledger))
    return DRAINED if ledger.sound else FAILED


def _read(shop: Shop, options: Options) -> list[Any]:
    try:
        return list(islice(shop.history.read_orders(options.orders), options.limit))
    except shop.history.BadOrders as error:
        raise click.ClickException(str(error)) from error


def _how_far(play: Play) -> str:
    return f"after {play.feed.sent:,} of {len(play.feed.past):,}"


def _how_to_go_on(place: Place) -> str:
    return "The shop is kept; the same command goes on." if place.kept else "The shop was temporary."


async def _run(play: Play, options: Options) -> bool:
    """Play to the end, or to the first signal. Raises WorkerDied, or a BrokerError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    try:
        async with _audience(play, options):
            return await play.run(stop)
    except BaseExceptionGroup as group:
        raise _innermost(group.subgroup(BrokerError) or group) from None


def _innermost(error: BaseException) -> BaseException:
    """The first of what is wrapped in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.asynccontextmanager
async def _audience(play: Play, options: Options) -> AsyncGenerator[None]:
    """Whoever watches: somebody at a terminal, a painter, or nobody but a progress bar."""
    if not options.watched:
        async with _bar(play):
            yield
        return
    view = View(play, "as fast as it goes" if options.pace is None else f"{options.pace:,.6g} orders/s")
    terminal = Console(stderr=options.as_json) if options.terminal else Console(file=io.StringIO(), width=WIDTH)
    async with shown(view, terminal):
        yield
    if options.picture is not None:
        save(view.remembered, options.picture)


@contextlib.asynccontextmanager
async def _bar(play: Play) -> AsyncGenerator[None]:
    with progress("orders", len(play.feed.past)) as advance:

        async def keep_up() -> None:
            seen = 0
            while True:
                await asyncio.sleep(BAR_EVERY)
                sent = play.feed.sent
                advance(sent - seen)
                seen = sent

        moving = asyncio.create_task(keep_up(), name="progress")
        try:
            yield
        finally:
            moving.cancel()
