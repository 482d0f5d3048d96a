"""A worker process: `python -m tests.crash.worker PLAN`, in the run's folder. Ends when its standard input does."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import msgspec

from tests.crash.plan import Plan
from tests.crash.service import build
from tidings.runtime import serve

LEASE = 3.0


async def work(plan: Plan, folder: Path) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)

    async def ready(_: object) -> None:
        with (folder / "ready").open("a") as file:
            file.write(f"{os.getpid()}\n")

    broker = f"sqlite:{folder / 'tidings.db'}?lease={LEASE}"
    return await serve([build(plan, folder)], ready=ready, stop=stop, broker=broker)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(process)d %(message)s")
    sys.exit(asyncio.run(work(msgspec.json.decode(sys.argv[1], type=Plan), Path.cwd())))
