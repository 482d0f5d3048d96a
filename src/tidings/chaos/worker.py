"""A worker: `python -m tidings.chaos.worker PLAN URL STORE`, in the run's folder. It ends when its input does."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tidings.app import App
from tidings.chaos.address import find
from tidings.chaos.plan import Plan
from tidings.runtime import serve


def app_of(plan: Plan, folder: Path, url: str, store: str | None) -> App:
    """The service that the plan names."""
    module, _, name = plan.service.partition(":")
    app: App = getattr(importlib.import_module(module), name)(plan, folder, find(url, store, remote_is_mine=True))
    return app


async def work(plan: Plan, folder: Path, url: str, store: str | None) -> int:
    """Handle events until told to stop; returns the exit code."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)

    async def ready(_: object) -> None:
        with (folder / "ready").open("a") as file:
            file.write(f"{os.getpid()}\n")

    return await serve(
        [app_of(plan, folder, url, store)], ready=ready, stop=stop, broker=url, store=store, lease=plan.lease
    )


def main(arguments: Sequence[str]) -> int:
    """What the command line says."""
    logging.basicConfig(level=logging.WARNING, format="%(process)d %(message)s")
    plan, url, store = arguments
    return asyncio.run(work(msgspec.json.decode(plan, type=Plan), Path.cwd(), url, store or None))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
