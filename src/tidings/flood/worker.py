"""A worker process of a flood: `tidings run` on a broker that notes what is settled."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from tidings.cli.lifeline import Lifeline
from tidings.cli.main import WRONG
from tidings.cli.target import load_all
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import Connection, connect
from tidings.errors import TidingsError
from tidings.flood.measured import MeasuredBroker
from tidings.flood.notes import Notebook
from tidings.runtime import FAILED, Runtime, serve

GRACE = 2.0
"""Seconds to finish what was begun: at the end of a flood all is settled, or will not be."""


class Duty(msgspec.Struct, frozen=True):
    """What a worker process is to run, and where it notes what it has done."""

    targets: tuple[str, ...]
    broker: str
    run: str
    notes: str
    store: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Those that win over the apps' own."""
        return {"broker": self.broker, "store": self.store or self.broker, "grace": GRACE}


async def work(duty: Duty, lifeline: Lifeline) -> int:
    """Run the apps until the flood is over; returns the exit code."""
    notebook = Notebook(Path(duty.notes) / f"{os.getpid()}.notes", duty.run)

    def measured(config: Config, clock: Clock) -> Connection:
        broker, store = connect(config, clock)
        return Connection(MeasuredBroker(broker, notebook, clock), store)

    async def ready(_: Runtime) -> None:
        lifeline.ready()

    try:
        return await serve(load_all(duty.targets), ready=ready, connecting=measured, **duty.settings)
    finally:
        notebook.close()


def main() -> int:
    """Do what the arguments say: the duty as JSON, the socket to who has started this."""
    duty = msgspec.json.decode(sys.argv[1], type=Duty)
    lifeline = Lifeline(int(sys.argv[2]))
    lifeline.begin(GRACE)
    try:
        return asyncio.run(work(duty, lifeline))
    except TidingsError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - to the log, whose last line the flood tells
        return WRONG
    except ExceptionGroup as died:
        sys.excepthook(type(died), died, died.__traceback__)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
