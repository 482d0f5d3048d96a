"""After a write or a sync that failed nothing more is written, whoever uses the broker is told, and nothing is lost."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.storage.survey import run
from tests.storage.vfs import reachable
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database
from tidings.errors import StorageBroken


@pytest.mark.skipif(not reachable(), reason="this SQLite is built into the interpreter")
@pytest.mark.parametrize(("kind", "step", "least"), [("sync", 3, 10), ("write", 31, 10)])
def test_it_stops_at_the_first_failure(kind: str, step: int, least: int) -> None:
    """Some of them here; `python -m tests.storage.failing sync` and `write` take every one."""
    found = json.loads(run("failing", kind, "--first=3", f"--step={step}").stdout)
    assert found["wrong"] == {}
    assert found["runs"] >= least


async def test_who_only_waits_is_told_when_nothing_more_is_written(tmp_path: Path) -> None:
    """A worker without work must not look alive on a file that is given up."""
    broker = SqliteBroker(Database(tmp_path / "tidings.db"), Clock())
    await broker.open()
    member = await broker.subscribe(["t"], "g")
    await member.fetch(1, 1.0)  # by then the housekeeping has done what it does at first
    waiting = asyncio.create_task(member.fetch(1, 60.0))
    await asyncio.sleep(0)
    broker.writer._broken = StorageBroken("an fsync failed")
    async with asyncio.timeout(60):
        with pytest.raises(StorageBroken):
            await waiting
    await broker.close()
