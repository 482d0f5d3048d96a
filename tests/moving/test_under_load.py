"""An app moves while its processes work and its events are published, and the command that moves it is killed."""

import asyncio
import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.moving.house import migrate, rows
from tests.moving.shop import KEYS
from tidings.dev import Valkey

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Crew:
    """Processes, and what they say; all of them end with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = itertools.count(1)
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A process and the file with all that it says."""
        said = self._folder / f"said-{next(self._names)}"
        with said.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        self.processes.append(process)
        return process, said

    def end(self) -> None:
        """Kill those that still run."""
        for process in self.processes:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def crew(folder: Path) -> Generator[Crew]:
    working = Crew(folder)
    try:
        yield working
    finally:
        working.end()


def acknowledged(said: Path) -> int:
    return sum(line.isdigit() for line in said.read_text().splitlines())


def booked(path: Path) -> int:
    return int(str(rows(path, "SELECT count(*) FROM booked")[0][0]))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            if condition():
                return
            await asyncio.sleep(0.05)


@pytest.mark.timeout(180)
async def test_nothing_is_lost_doubled_or_out_of_order(tmp_path: Path, valkey_server: Valkey) -> None:
    path, url = tmp_path / "tidings.db", f"{valkey_server.url}?prefix=load"
    here, store = f"sqlite:{path}", f"sqlite:{path}"
    with crew(tmp_path) as working:
        seller, sales = working.start("tests.moving.shop", here, url, store)
        await until(lambda: acknowledged(sales) > 5)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE booked (seq INTEGER PRIMARY KEY, till TEXT, number INTEGER)")
        workers = [working.start("tidings", "run", "tests.moving.shop:app", "--broker", here) for _ in range(2)]
        await until(lambda: booked(path) > 20)
        for place in ("copied:2", "drained:1", "fenced:1", "settling:1"):
            killed = await asyncio.to_thread(migrate, path, url, failpoint=f"{place}=kill")
            assert killed.code == -signal.SIGKILL, (place, killed.err)
        before = booked(path)
        moved = await asyncio.to_thread(migrate, path, url)
        assert moved.code == 0, moved.err
        assert booked(path) >= before
        for process, said in workers:
            assert await asyncio.to_thread(process.wait, PATIENCE) == 1
            assert "has moved to" in said.read_text()
        last, _ = working.start("tidings", "run", "tests.moving.shop:app", "--broker", url, "--store", store)
        await until(lambda: "moved" in sales.read_text())
        at_the_move = acknowledged(sales)
        await until(lambda: acknowledged(sales) > at_the_move + 20)
        assert seller.stdin is not None
        seller.stdin.close()
        assert await asyncio.to_thread(seller.wait, PATIENCE) == 0
        await until(lambda: booked(path) >= KEYS * acknowledged(sales))
        last.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(last.wait, PATIENCE) == 0
    for till in range(KEYS):
        numbers = [number for (number,) in rows(path, f"SELECT number FROM booked WHERE till = 't{till}' ORDER BY seq")]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= acknowledged(sales)
