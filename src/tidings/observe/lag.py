"""How far the handlers of running apps are behind, asked of their brokers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidings.app import App
from tidings.broker import Lag
from tidings.errors import BrokerError

DEADLINE = 2.0

Lags = dict[tuple[str, str], Lag]
"""By handler and topic."""


async def lags(apps: Sequence[App], deadline: float = DEADLINE) -> Lags:
    """The lag of each handler on each of its topics; what cannot be told within `deadline` seconds is left out."""
    found: Lags = {}
    try:
        async with asyncio.timeout(deadline):
            for app in apps:
                await _ask(app, found)
    except TimeoutError:
        pass  # unknown is absent
    return found


async def _ask(app: App, found: Lags) -> None:
    for worker in app.workers:
        for topic in worker.bound.topics:
            if app.connection is None:
                return
            try:
                found[worker.bound.name, topic] = await app.connection.broker.lag(topic, worker.bound.name)
            except BrokerError:
                continue  # unknown is absent
