"""Running an app in a test: on a real file without fsync, until nothing is left to do."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from tidings import App


def url(folder: Path) -> str:
    return f"sqlite:{folder / 'tidings.db'}?durable=no"


async def settled(app: App, seconds: float = 60.0) -> None:
    """Until every handler has settled all that there is for it."""
    assert app.connection is not None
    async with asyncio.timeout(seconds):
        while True:
            lags = [
                (await app.connection.broker.lag(topic, worker.bound.name)).waiting
                for worker in app.workers
                for topic in worker.bound.topics
            ]
            if not any(lags):
                return
            await asyncio.sleep(0.01)


def rows(folder: Path, sql: str, *values: Any) -> list[Any]:
    connection = sqlite3.connect(folder / "tidings.db")
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()
