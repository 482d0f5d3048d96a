"""A simulated world: processes on one file, a client that publishes, and somebody who breaks things.

First things go wrong while the scenario publishes; then all heals; then everything must be settled within a time.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tidings.app import App
from tidings.broker import Delivery, Record
from tidings.config import Config
from tidings.errors import StorageError
from tidings.handler import Bound
from tidings.middleware import Next
from tidings.testing.sim.faults import Faults
from tidings.testing.sim.files import Files
from tidings.testing.sim.loop import OWNER, Died, SimLoop
from tidings.testing.sim.node import DAY, SETTLED, Process
from tidings.testing.sim.tape import Tape

LEASE = 3.0
BEAT = 0.4
"""Virtual seconds between two looks of whoever breaks things."""
GRACE = 10.0
STOPS = (0.5 * LEASE, 1.5 * LEASE, 4 * LEASE)
JUMPS = (-DAY, -60.0, 60.0)
MOST_FAILURES = 4
"""In a row: more than are tried again at once, fewer than it takes to give up."""
RESTART = (0.1, 2.0, 2 * LEASE)


class SimulatedFailure(Exception):
    """Raised around a handler by the simulation."""


class Moment(NamedTuple):
    """A line of the timeline: virtual seconds, the process or "", what happened."""

    at: float
    process: str
    what: str


class World:
    """The processes of one run, and what happens to them."""

    def __init__(
        self, apps: Sequence[App], files: Files, tape: Tape, *, faults: Faults, seed: int, processes: int = 2
    ) -> None:
        self.tape = tape
        self.loop = SimLoop(tape)
        self.timeline: list[Moment] = []
        self.attempted: dict[tuple[str, str], Record] = {}
        """What the scenario has tried to publish, by topic and id."""
        self.failures: list[BaseException] = []
        """What has no business to happen: workers that ended, errors that nobody caught."""
        self._apps = apps
        self.database = files.database
        self.config = Config(broker=f"sqlite:{files.path}", lease=LEASE, keep=float("inf"))
        self.seed = seed
        self._faults = faults
        self._count = processes
        self._started = 0
        self._crashes = 0
        self._healed = False
        self._hearing: set[str] = set()
        self._fails: dict[tuple[str, str, str], int] = {}
        self._alive: dict[str, Process] = {}
        self._leaving: list[Process] = []
        self._client: Process | None = None
        self._nemesis: asyncio.Task[None] | None = None
        self.bounds: Sequence[Bound] = ()
        """The handlers, as they are bound when a process starts."""
        self.on_commit: Callable[[], None] | None = None

    @property
    def groups(self) -> list[str]:
        """The names of all handlers."""
        return [name for app in self._apps for name in app.handlers]

    # -- what processes ask of it

    def tell(self, process: str, what: str) -> None:
        """See Host.tell."""
        self.timeline.append(Moment(self.loop.time(), process, what))

    def seen_dead(self, process: str) -> bool:
        """See Host.seen_dead: in every other run they are containers that cannot see each other."""
        return self.seed % 2 == 0 and process not in self._alive and process != "client"

    def signalled(self) -> None:
        """See Host.signalled: every process hears of it, once for several signals in a row."""
        client = [self._client] if self._client is not None else []
        for process in (*client, *self._alive.values()):
            ears = getattr(process.broker, "ears", None)
            if ears is None or not ears.open or process.name in self._hearing:
                continue
            late = self.tape.choose(3, "wakeup") if process is not self._client else 0
            if late == 1:
                self.tell(process.name, "is not told of a commit")
                continue
            if late:
                self.tell(process.name, "is told of a commit 1 s late")
            self._hearing.add(process.name)
            self.loop.call_later(1.0 if late else 0.0, self._hear, process, context=process.context)

    def _hear(self, process: Process) -> None:
        self._hearing.discard(process.name)
        process.broker.ears.heard()

    def committed(self) -> None:
        """See Host.committed."""
        if self.on_commit is not None:
            self.on_commit()

    def hit(self, place: str) -> None:
        """Code of a process passes a named place; it may die there."""
        name = OWNER.get()
        process = self._alive.get(name)
        if process is None or self._healed or not self._may_crash or not self.tape.choose(2, "place"):
            return
        self._crash(process, f"at {place!r}")
        raise Died

    # -- the run

    def prepare(self) -> None:
        """Make the file, let one process declare everything, and end it in order."""

        async def declare() -> None:
            await self._begin()
            await self._speaker.broker.run(lambda connection: connection.execute(SETTLED))
            (process,) = self._alive.values()
            while not process.ready:
                self._raise_failures()
                await asyncio.sleep(0.01)
            assert self._nemesis is not None
            self._nemesis.cancel()
            self.bounds = [worker.bound for worker in process.workers]
            del self._alive[process.name]
            await self.loop.create_task(process.leave(GRACE), context=process.context)
            await self._speaker.leave(GRACE)

        try:
            self.loop.run_until_complete(declare())
        finally:
            self.loop.bury()

    async def _begin(self) -> None:
        self._client = self._new_process("client", [App("client")])
        await self._client.open()
        for _ in range(self._count):
            self._start()
        await self._until_ready()
        self._nemesis = self.loop.create_task(self._break(), name="nemesis")

    async def _until_ready(self) -> None:
        """Every group is there: what is published from now on is heard."""
        wanted = set(self.groups)
        while True:
            found = {name for (name,) in self._speaker.broker.read("SELECT name FROM tidings_group")}
            if wanted <= found:
                return
            self._raise_failures()
            await asyncio.sleep(0.01)

    @property
    def _speaker(self) -> Process:
        if self._client is None:
            raise AssertionError("the simulation has not begun")
        return self._client

    @property
    def _now(self) -> float:
        return self._speaker.clock.now()

    def _new_process(self, name: str, apps: Sequence[App]) -> Process:
        self._started += 1
        return Process(self, name, self._started, apps)

    def _start(self) -> None:
        process = self._new_process(f"p{self._started}", self._apps)
        for app in process.apps:
            if "handler" in self.tape.rates:
                app.middleware(self._sabotage)
        self._alive[process.name] = process
        self.tell(process.name, "starts")
        process.start()
        assert process.task is not None
        process.task.add_done_callback(lambda _: self._ended(process))

    async def _sabotage(self, delivery: Delivery, call_next: Next) -> Any:
        """Raise around a handler, some times in a row, once an event and process."""
        at = (OWNER.get(), delivery.record.topic, delivery.record.id)
        if at not in self._fails:
            self._fails[at] = self.tape.choose(1 + MOST_FAILURES, "handler")
        if not self._fails[at]:
            return await call_next()
        self._fails[at] -= 1
        after = self._fails[at] % 2
        self.tell(OWNER.get(), f"a handler of {delivery.record.type} raises {'after' if after else 'before'} its work")
        if after:
            await call_next()
        raise SimulatedFailure("made up by the simulation")

    def _ended(self, process: Process) -> None:
        """A process has ended by itself; whoever looks after it starts it again."""
        if self._alive.pop(process.name, None) is None:
            return
        error = process.died
        if not isinstance(error, StorageError):
            self.failures.append(error or AssertionError(f"{process.name} has ended by itself"))
        self.tell(process.name, f"ends: {error!r}")
        self.loop.kill(process.name)
        process.drop()
        self.loop.call_later(1.0, self._start)

    def _raise_failures(self) -> None:
        if self.loop.errors:
            self.failures += self.loop.errors
            self.loop.errors = []
        if self.failures:
            raise self.failures[0]

    # -- what goes wrong

    @property
    def _may_crash(self) -> bool:
        return self._crashes < self._faults.crashes

    async def _break(self) -> None:
        """Every now and then something happens to a process, or to none."""
        while not self._healed:
            await asyncio.sleep(BEAT)
            for process in list(self._alive.values()):
                if self._healed:
                    return
                self._harm(process)

    def _harm(self, process: Process) -> None:
        if self._may_crash and self.tape.choose(2, "nemesis"):
            self._crash(process, "by kill -9")
        elif stop := self.tape.choose(1 + len(STOPS), "stop"):
            self.tell(process.name, f"stands still for {STOPS[stop - 1]:g} s")
            self.loop.stop_process(process.name)
            self.loop.call_later(STOPS[stop - 1], self._resume, process, context=contextvars.Context())
        elif jump := self.tape.choose(1 + len(JUMPS), "clock"):
            self.tell(process.name, f"its clock jumps by {JUMPS[jump - 1]:g} s")
            process.clock.skew += JUMPS[jump - 1]
        elif self.tape.choose(2, "leave"):
            self._leave(process)

    def _resume(self, process: Process) -> None:
        if process.name in self._alive:
            self.tell(process.name, "goes on")
            self.loop.resume_process(process.name)

    def _crash(self, process: Process, how: str) -> None:
        self._crashes += 1
        self.tell(process.name, f"is killed {how}")
        del self._alive[process.name]
        self.loop.kill(process.name)
        process.drop()
        delay = RESTART[self.tape.choose(len(RESTART), "restart")]
        self.loop.call_later(delay, self._start, context=contextvars.Context())

    def _leave(self, process: Process) -> None:
        self.tell(process.name, "is asked to end")
        del self._alive[process.name]
        self._leaving.append(process)
        leaving = self.loop.create_task(process.leave(GRACE), context=process.context)
        leaving.add_done_callback(lambda task: self._left_in_order(process, task))

    def _left_in_order(self, process: Process, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StorageError):
            self.failures.append(error)
        self.tell(process.name, "has ended")
        self._start()

    def _heal(self) -> None:
        if self._healed:
            return
        self._healed = self.tape.quiet = True
        self.tell("", "everything heals")
        for process in self._alive.values():
            process.clock.skew = 0.0
        self.loop.resume_all()
