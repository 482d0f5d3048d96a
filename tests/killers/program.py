"""Handlers of every form, each fatal in the way that its event says. ONLY names the one that runs."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Callable

from tidings import App, Delivery, Event, Isolation, Retry, Start, Tx

TIMES = 2
DEATHS = TIMES + 1
SOON = Retry(times=TIMES, first=0.05, factor=1.0, at_once=0)
LIMIT = 0.5


class Hit(Event, name="hit.told", key="key"):
    """How it is fatal; "" for not at all."""

    key: str
    how: str = ""
    seconds: float = 0.0


app = App("scene")
counts = app.table("count", int)


def called(handler: str, hit: Hit, delivery: Delivery) -> None:
    """Remember the call, whatever follows."""
    line = f"{handler} {hit.key} {delivery.attempt} {os.getpid()} {time.monotonic()}\n"
    file = os.open("calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(file, line.encode())
    os.close(file)


def strike(how: str, seconds: float) -> None:
    """Die of it, or never end."""
    ways: dict[str, Callable[[], object]] = {
        "exit": lambda: os._exit(9),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "system exit": lambda: sys.exit(4),
        "memory": lambda: devour(limit=1 << 30),
        "hoard": lambda: devour(limit=1 << 30, hoard=hoarded),
        "oom": lambda: bloat(most=150 << 20),
        "recursion": lambda: strike(how, seconds),
        "stack": overflow,
        "block": spin,
        "hang": lambda: time.sleep(3600),
        "sleep": lambda: time.sleep(seconds),
        "raise": refuse,
    }
    if how in ways:
        ways[how]()


def spin() -> None:
    """Without end."""
    while True:
        pass


def refuse() -> None:
    """Fail like anything else."""
    raise ValueError("a planned failure")


hoarded: list[bytearray] = []


def devour(limit: int, hoard: list[bytearray] | None = None) -> None:
    """Allocate without end, under a limit. With a `hoard` it is never given back: the whole process has to starve."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    eaten: list[bytearray] = [] if hoard is None else hoard
    size = 1 << 24
    while True:
        try:
            eaten.append(bytearray(size))
        except MemoryError:
            if hoard is None or size < 1 << 12:
                raise
            size >>= 1


def bloat(most: int) -> None:
    """As the kernel has it that is out of memory: SIGKILL, at so many bytes."""
    eaten = []
    while len(eaten) << 24 < most:
        eaten.append(bytearray(os.urandom(1 << 10) * (1 << 14)))
    os.kill(os.getpid(), signal.SIGKILL)


def overflow() -> None:
    """The C stack, as a library's endless recursion does."""
    comparing = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    array = (ctypes.c_int * 2)(2, 1)

    @comparing
    def compare(one: int, other: int) -> int:
        sys.setrecursionlimit(1 << 30)
        ctypes.CDLL(None).qsort(array, 2, 4, compare)
        return 0

    compare(0, 0)


ONLY = os.environ.get("ONLY", "").split()

if "on_loop" in ONLY:

    @app.on(Hit, retry=SOON, timeout=LIMIT, start=Start.EARLIEST)
    async def on_loop(hit: Hit, delivery: Delivery) -> None:
        called("on_loop", hit, delivery)
        if hit.how == "await":
            await asyncio.Event().wait()
        while hit.how == "swallow":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue
        strike(hit.how, hit.seconds)


if "with_tx" in ONLY:

    @app.on(Hit, retry=SOON, start=Start.EARLIEST)
    async def with_tx(hit: Hit, tx: Tx, delivery: Delivery) -> None:
        called("with_tx", hit, delivery)
        if hit.how == "pause":
            await asyncio.sleep(hit.seconds)
        tx.put(counts, hit.key, 1 + await tx.get(counts, hit.key, 0))
        strike(hit.how, hit.seconds)


if "in_thread" in ONLY:

    @app.on(Hit, retry=SOON, timeout=LIMIT, start=Start.EARLIEST)
    def in_thread(hit: Hit, delivery: Delivery) -> None:
        called("in_thread", hit, delivery)
        strike(hit.how, hit.seconds)


if "in_transaction" in ONLY:

    @app.on(Hit, retry=SOON, timeout=LIMIT, start=Start.EARLIEST)
    def in_transaction(hit: Hit, db: sqlite3.Connection, delivery: Delivery) -> None:
        called("in_transaction", hit, delivery)
        db.execute("CREATE TABLE IF NOT EXISTS effects (key TEXT)")
        db.execute("INSERT INTO effects VALUES (?)", (hit.key,))
        strike(hit.how, hit.seconds)


if "alone" in ONLY:

    @app.on(Hit, retry=SOON, start=Start.EARLIEST, isolate=Isolation(memory=256 << 20, seconds=20.0))
    async def alone(hit: Hit, tx: Tx, delivery: Delivery) -> None:
        """What is tried alone comes after all attempts in workers: "in workers" is fatal in those only."""
        called("alone", hit, delivery)
        tx.put(counts, hit.key, 1 + await tx.get(counts, hit.key, 0))
        strike("exit" if hit.how == "in workers" and delivery.attempt <= DEATHS else hit.how, hit.seconds)


if "beside" in ONLY:

    @app.on(Hit, retry=SOON, start=Start.EARLIEST)
    async def beside(hit: Hit, delivery: Delivery) -> None:
        """A neighbour in the same process, which does nothing wrong and is slow."""
        called("beside", hit, delivery)
        await asyncio.sleep(0.3)
