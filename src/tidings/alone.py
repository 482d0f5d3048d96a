"""The process in which one event is tried alone: imports the program, calls the handler, says what came of it.

`cell.py` is the worker's side. The process ends with its worker: when their socket closes, or at the latest by its
alarm, which is the kernel's.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import queue
import resource
import runpy
import signal
import socket
import sys
import threading
import types
from pathlib import Path
from typing import Any

import msgspec

from tidings import dead
from tidings.app import App, apps_in
from tidings.broker import Delivery
from tidings.codec import Reader
from tidings.config import Config
from tidings.connect import connect
from tidings.errors import ConfigError
from tidings.handler import Bound, Mode
from tidings.isolation import HEAD, Done, Failed, Get, Home, Job, Ready, Row, Said, frame, message
from tidings.store import Table

ORPHANED = 1
LATEST = 60.0
"""Seconds beyond its limit after which the process ends itself, should nobody have."""
TEXT_LENGTH = 1000


class Channel:
    """The socket to the worker. A thread listens, so that its end is noticed whatever the handler does."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._heard: queue.SimpleQueue[Said] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="tidings-channel", daemon=True).start()

    def _listen(self) -> None:
        with self._socket.makefile("rb") as incoming:
            while head := incoming.read(HEAD):
                self._heard.put(message(incoming.read(int.from_bytes(head, "big"))))
        os._exit(ORPHANED)

    def say(self, said: Said) -> None:
        """Tell the worker."""
        self._socket.sendall(frame(said))

    def next(self) -> Said:
        """What it says; waits for it."""
        return self._heard.get()


class AloneTx:
    """See Tx. Rows are read by the worker, in its transaction; writes wait here until the handler has ended."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.writes: dict[tuple[str, str], bytes | None] = {}

    async def get(self, table: Table[Any], key: str, default: Any = None) -> Any:
        """See Tx.get."""
        at = (table.name, key)
        if at in self.writes:
            value = self.writes[at]
        else:
            self._channel.say(Get(*at))
            row = self._channel.next()
            value = row.value if isinstance(row, Row) else None
        return default if value is None else msgspec.msgpack.decode(value, type=table.type)

    def put(self, table: Table[Any], key: str, value: Any) -> None:
        """See Tx.put. Raises InvalidEvent where the value does not fit the table's type."""
        self.writes[(table.name, key)] = table.encode(key, value)

    def delete(self, table: Table[Any], key: str) -> None:
        """See Tx.delete."""
        self.writes[(table.name, key)] = None


def main(descriptor: str) -> None:
    """Do the one job that comes over the socket."""
    channel = Channel(int(descriptor))
    job = channel.next()
    assert isinstance(job, Job)
    signal.setitimer(signal.ITIMER_REAL, job.seconds + LATEST)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        said: Said = asyncio.run(_handled(job, channel))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the worker writes it into the letter
        said = Failed(type(error).__name__, dead.printable(str(error))[:TEXT_LENGTH], dead.where(error))
    channel.say(said)
    os._exit(0)  # threads of the handler that go on have no one to work for


async def _handled(job: Job, channel: Channel) -> Done:
    app = find(job.home)
    tx = AloneTx(channel)
    await _open(app, msgspec.convert(job.home.config, Config))
    try:
        (bound,) = await app.bind([job.home.handler])
        _limit(job.memory)
        channel.say(Ready())
        result = await _call(app, bound, job, tx)
        records = [app.codec.encode(event, job.record) for event in bound.outputs(result)]
    finally:
        await app.close()
    return Done(records, [(*at, value) for at, value in tx.writes.items()])


async def _open(app: App, config: Config) -> None:
    """Connect as the worker has; a broker in its memory is not to be had from here, and says so where it is used."""
    if config.broker.startswith("memory:"):
        elsewhere = connect(msgspec.structs.replace(config, broker="sqlite:not-here.db"), app.clock)
        await app.open(elsewhere, config)
    else:
        await app.open(config=config)


async def _call(app: App, bound: Bound, job: Job, tx: AloneTx) -> Any:
    delivery = Delivery(job.record, job.attempt, job.receipt)
    event = job.record if bound.takes_record else Reader(bound.types).decode(job.record)
    result = app.around(bound)([event] if bound.takes_list else event, delivery, tx)
    return await result if bound.mode is Mode.LOOP else result


def find(home: Home) -> App:
    """The app, once what it consists of is imported. Raises ConfigError where it is not there."""
    for name in home.modules:
        for app in apps_in(_loaded(name)):
            if app.name == home.app and home.handler in app.handlers:
                return app
    raise ConfigError(f"{home.handler} is not there when {', '.join(home.modules)} are imported in another process.")


def _loaded(name: str) -> str:
    """Import a module, or run a script as one; returns what it is then called."""
    if not name.endswith(".py"):
        importlib.import_module(name)
        return name
    script = types.ModuleType(Path(name).stem)
    sys.modules[script.__name__] = script
    vars(script).update(runpy.run_path(name, run_name=script.__name__))
    return script.__name__


def _limit(memory: int) -> None:
    """Let the process grow by so many bytes, where its size is known."""
    size = Path("/proc/self/statm")
    if size.exists():
        most = int(size.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
