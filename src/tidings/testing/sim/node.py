"""A simulated process: the real engine, broker and store on the world's one file, with time and luck of the world's.

Real are the apps, workers, lanes, the group-commit writer's work, the groups, the leases and SQLite itself. Not real
are the thread of the writer (its work is a step of the loop), inotify, the clock, and death.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import random
import sqlite3
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from tidings.app import App
from tidings.broker import Delivery, Start, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import Connection as Connected
from tidings.embedded import database as files
from tidings.embedded import membership
from tidings.embedded.database import Connection, Database
from tidings.embedded.membership import Lent
from tidings.embedded.wakeup import Wakeup
from tidings.embedded.writer import Insert, Job, Writer
from tidings.store import Unit
from tidings.stores.sqlite import SqliteStore
from tidings.testing.clock import START
from tidings.testing.sim.files import WRITER, Left, SimDatabase, leave
from tidings.testing.sim.loop import OWNER, SimLoop
from tidings.testing.sim.tape import Tape
from tidings.worker import Worker, join_all

COMMIT = 0.001
"""Virtual seconds that a commit takes."""
SLOW = (2.0, 7.0)
DAY = 86400.0
SETTLED = """CREATE TABLE IF NOT EXISTS sim_settled (seq INTEGER PRIMARY KEY, grp TEXT, topic TEXT, id TEXT, key TEXT,
    pos INTEGER, process TEXT)"""
SETTLE = "INSERT INTO sim_settled (grp, topic, id, key, pos, process) VALUES (?, ?, ?, ?, ?, ?)"


class Host(Protocol):
    """What a process needs of its world."""

    loop: SimLoop
    tape: Tape
    config: Config
    seed: int

    def database(self, role: str) -> Database:
        """The file, for one use of it in a process."""
        ...

    def tell(self, process: str, what: str) -> None:
        """Note it in the timeline."""
        ...

    def seen_dead(self, process: str) -> bool:
        """Whether the others see that this process is dead."""
        ...

    def signalled(self) -> None:
        """The log has grown."""
        ...

    def committed(self) -> None:
        """A commit is done."""
        ...


class SimClock(Clock):
    """The world's time, and what the clock of this process is off."""

    def __init__(self, loop: SimLoop, number: int, seed: int) -> None:
        super().__init__()
        self.skew = 0.0
        self._loop = loop
        self._number = number
        self._count = 0
        self._seed = f"{seed}/{number}"

    @functools.cached_property
    def chance(self) -> random.Random:
        """The luck of this process."""
        return random.Random(self._seed)  # noqa: S311 - it has to be repeatable

    def now(self) -> float:
        """See Clock.now."""
        return START + self._loop.time() + self.skew

    def monotonic(self) -> float:
        """See Clock.monotonic."""
        return self._loop.time()

    def random(self) -> float:
        """See Clock.random."""
        return self.chance.random()

    def bits(self, count: int) -> int:
        """See Clock.bits. Nothing is drawn for it: runs stay as they are."""
        return self._number << count - 20

    def id(self) -> str:
        """A UUIDv7: the time, a counter, the number of the process."""
        self._count += 1
        head, count = f"{int(self.now() * 1000):012x}", f"{self._count:06x}"
        return f"{head[:8]}-{head[8:]}-7{count[:3]}-8{count[3:]}-{self._number:012x}"


class SimWriter(Writer):
    """Commits in a step of the loop, sometimes late, sometimes in vain."""

    def __init__(
        self, world: Host, process: str, database: Database, insert: Insert, committed: Callable[[], None]
    ) -> None:
        self._world = world
        self._process = process
        self._queued: list[Job] = []
        self._busy = False
        self._trouble: sqlite3.OperationalError | None = None
        super().__init__(database, insert, committed)

    def begin(self) -> None:
        """No thread."""

    def hand_over(self, jobs: list[Job]) -> None:
        """See Writer.hand_over."""
        self._queued += jobs
        if not self._busy:
            self._busy = True
            self._world.loop.call_later(self._delay(), self._next)

    def _delay(self) -> float:
        slow = self._world.tape.choose(1 + len(SLOW), "slow_disk")
        if slow:
            self._world.tell(self._process, f"a commit takes {SLOW[slow - 1]:g} s")
        return SLOW[slow - 1] if slow else COMMIT

    def _next(self) -> None:
        jobs, self._queued = self._queued, []
        self._trouble = self._troubles()
        self.work(jobs)
        self._world.committed()
        self._lose_reply(jobs)
        self._resolve(jobs)
        self._busy = bool(self._queued)
        if self._busy:
            self._world.loop.call_later(self._delay(), self._next)

    def _troubles(self) -> sqlite3.OperationalError | None:
        """What the next commit fails of, if anything."""
        tape = self._world.tape
        for label, code, text in (
            ("full_disk", sqlite3.SQLITE_FULL, "database or disk is full"),
            ("locked", sqlite3.SQLITE_BUSY, "database is locked"),
        ):
            if tape.choose(2, label):
                self._world.tell(self._process, f"a commit fails: {text}")
                error = sqlite3.OperationalError(text)
                error.sqlite_errorcode = code
                return error
        return None

    def _commit(self, connection: Any, jobs: Sequence[Job], work: Any) -> None:
        def work_in_vain(connection: Any, jobs: Sequence[Job]) -> None:
            work(connection, jobs)
            if self._trouble is not None:
                raise self._trouble

        super()._commit(connection, jobs, work_in_vain)

    def _lose_reply(self, jobs: Sequence[Job]) -> None:
        """Publishers are told that it failed, as where another process kept the file locked for too long."""
        lost = [job for job in jobs if job.step is None and job.error is None and not job.future.done()]
        if lost and self._world.tape.choose(2, "lost_reply"):
            self._world.tell(self._process, "publishers are told that a commit failed, which it has not")
            for job in lost:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                job.error = files.named(error, self._database.path)

    @contextlib.contextmanager
    def _turn(self) -> Generator[None]:
        """A commit is one step of the loop: nobody else writes meanwhile, whom a lock would have to keep waiting."""
        yield

    def _connect(self) -> Any:
        connection = self._world.database(WRITER).connect()
        connection.guard()
        return connection

    async def close(self) -> None:
        """See Writer.close."""
        if not self._closed:
            self._flush()
            while self._busy:  # noqa: ASYNC110 - a commit tells those who wait for it, and no others
                await asyncio.sleep(COMMIT)
            self._closed = True
            os.close(self._lock)
            if self._connection is not None:
                self._connection.close()

    def drop(self) -> None:
        """Let go of file and lock, as the operating system does for a process that has died."""
        if not self._closed:
            self._closed = True
            os.close(self._lock)
            if self._connection is not None:
                leave(self._connection)


class SimWakeup(Wakeup):
    """Hears of commits through the world."""

    def __init__(self, world: Host, heard: Callable[[], None]) -> None:
        self.heard = heard
        self.open = True
        self._world = world

    @property
    def polling(self) -> bool:
        """Never."""
        return False

    def signal(self) -> None:
        """See Wakeup.signal."""
        self._world.signalled()

    def close(self) -> None:
        """See Wakeup.close."""
        self.open = False


class Witness:
    """A subscription that notes, in the commit itself, what its process has settled."""

    def __init__(self, inner: Subscription, group: str, process: str) -> None:
        self._inner = inner
        self._group = group
        self._process = process
        self.fetch = inner.fetch
        self.nack = inner.nack
        self.extend = inner.extend
        self.close = inner.close

    async def ack(self, deliveries: Sequence[Delivery], tx: Unit | None = None) -> None:
        """See Subscription.ack."""
        await self._inner.ack(deliveries, tx=tx)
        if tx is not None:
            tx.add(lambda connection: self._note(connection, deliveries))

    def _note(self, connection: Any, deliveries: Sequence[Delivery]) -> None:
        rows = [
            (self._group, each.record.topic, each.record.id, each.record.key, each.receipt, self._process)
            for each in deliveries
        ]
        connection.executemany(SETTLE, rows)


class Name(membership.Process):
    """The name of a simulated process. Others see at once that it is dead, or only by its lease, as in a container."""

    def __init__(self, world: Host, name: str) -> None:
        self.name = f"simulated///{name}"
        self._world = world

    def dead(self, name: str) -> bool:  # type: ignore[override]
        """See Process.dead."""
        return self._world.seen_dead(name.rpartition("/")[2])


class SimBroker(SqliteBroker):
    """The embedded broker of a simulated process."""

    def __init__(self, world: Host, process: str, database: Database, clock: Clock) -> None:
        self._world = world
        self._name = process
        super().__init__(database, clock, lease=world.config.lease, keep=world.config.keep)

    def new_process(self, _: str) -> Name:
        """See SqliteBroker."""
        return Name(self._world, self._name)

    def prepare(self, reader: Connection) -> None:
        """See SqliteBroker."""
        if not isinstance(reader, Left):
            super().prepare(reader)

    def new_lent(self) -> Lent:
        """See SqliteBroker."""
        return self.database.lent if isinstance(self.database, SimDatabase) else super().new_lent()

    def new_wakeup(self, heard: Callable[[], None]) -> SimWakeup:
        """See SqliteBroker."""
        self.ears = SimWakeup(self._world, heard)
        return self.ears

    def new_writer(self, committed: Callable[[], None]) -> SimWriter:
        """See SqliteBroker."""
        return SimWriter(self._world, self._name, self.database, self.insert, committed)

    async def subscribe(self, topics: Sequence[str], group: str | None, start: Start | float = Start.LATEST) -> Any:
        """See SqliteBroker.subscribe."""
        inner = await super().subscribe(topics, group, start)
        return inner if group is None else Witness(inner, group, self._name)

    def drop(self) -> None:
        """What the operating system does for a process that has died."""
        if not self._open:
            return
        self._open = False
        if isinstance(self.writer, SimWriter):
            self.writer.drop()
        leave(self._reader)
        self.lent.close()


class SimStore(SqliteStore):
    """The embedded store of a simulated process."""

    def drop(self) -> None:
        """See SimBroker.drop. An outcome, into which the garbage collector does not see, leads to the world no more."""
        self._find_writer = None
        self._ahead.clear()
        if self._reader is not None:
            leave(self._reader)
            self._reader = None


class Process:
    """One process with all apps. `name` is new each time it starts."""

    def __init__(self, world: Host, name: str, number: int, apps: Sequence[App]) -> None:
        self.name = name
        self.clock = SimClock(world.loop, number, world.seed)
        self.broker = SimBroker(world, name, world.database("reader"), self.clock)
        self.store = SimStore(world.database("store"), lambda: self.broker.writer, clock=self.clock)
        self.apps = [app.copy() for app in apps]
        self.workers: list[Worker] = []
        self.died: BaseException | None = None
        self.ready = False
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, name)
        self._world = world
        self._tasks: list[asyncio.Task[None]] = []
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin: as `tidings run` does."""
        self.task = self._world.loop.create_task(self._serve(), name=self.name, context=self.context)

    async def open(self) -> None:
        """Connect, and open the apps."""
        await self.broker.open()
        await self.store.open()
        for app in self.apps:
            app.clock = self.clock
            await app.open(Connected(self.broker, self.store), self._world.config)

    async def _serve(self) -> None:
        try:
            await self.open()
            for app in self.apps:
                self.workers += await app.staff()
            await join_all(self.workers)
            self._tasks = [asyncio.create_task(worker.run(), name=worker.bound.name) for worker in self.workers]
            self.ready = True
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except Exception as error:  # noqa: BLE001 - the world decides what it means
            self.died = error

    async def leave(self, grace: float) -> None:
        """Drain and end, as after SIGTERM. In the context of the world's task, on behalf of the process."""
        await asyncio.gather(*(worker.drain(grace) for worker in self.workers))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        for app in self.apps:
            await app.close()
        await self.store.close()
        await self.broker.close()

    def drop(self) -> None:
        """Close what the operating system would."""
        self.broker.drop()
        self.store.drop()
