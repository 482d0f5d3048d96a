"""An event loop with virtual time, on which the processes of a simulated world run side by side.

Time goes on only when nobody has anything to do. Each callback belongs to a process (by its context); a process can be
killed, and then nothing of it runs ever again, or stopped for a while. Without deviations on its tape, callbacks run
in the order of the standard library's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from tidings.testing.sim.tape import Tape

OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("tidings_process", default="")
"""The simulated process to which code belongs; empty for the world itself."""


class Stuck(AssertionError):
    """Nobody will ever have anything to do again, and the one who is waited for is not done."""


class Died(BaseException):
    """Raised in the code of a process at the place where it is killed: it ends there."""


class Callback:
    """What is to run once: asyncio's Handle and TimerHandle in one."""

    __slots__ = ("_when", "args", "callback", "context", "was_cancelled")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context, when: float
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self._when = when
        self.was_cancelled = False

    def cancel(self) -> None:
        """Never run it."""
        self.was_cancelled = True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.was_cancelled

    def when(self) -> float:
        """The loop's time at which it is due."""
        return self._when

    @property
    def owner(self) -> str:
        """The process that it belongs to."""
        return self.context.get(OWNER, "")


_Loop: Any = asyncio.AbstractEventLoop  # its many methods for sockets, pipes and signals are not for us


class SimLoop(_Loop):  # type: ignore[misc]
    """Runs callbacks one at a time, by its tape. `time()` is in virtual seconds from 0.

    What is given to a thread runs on the loop, as one step. There are no sockets, pipes or signals.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.steps = 0
        self.most_steps = 50_000
        self.errors: list[BaseException] = []
        """What nobody caught."""
        self.trace: list[tuple[int, str]] | None = None
        """Step and owner of each callback, where somebody wants to compare runs."""
        self._time = 0.0
        self._ready: list[Callback] = []
        self._first = 0
        self._timers: list[tuple[float, int, Callback]] = []
        self._numbers = itertools.count()
        self._gone: set[str] = set()
        self._stopped: dict[str, list[Callback]] = {}
        self._running = False
        self._closed = False
        self._tasks: list[asyncio.Task[Any]] = []

    # -- processes

    def kill(self, owner: str) -> None:
        """Nothing of this process runs any more; nothing is cleaned up."""
        self._gone.add(owner)
        self._stopped.pop(owner, None)

    def stop_process(self, owner: str) -> None:
        """Let it stand still."""
        self._stopped.setdefault(owner, [])

    def resume_process(self, owner: str) -> None:
        """Let it go on: what has become due meanwhile comes at once."""
        self._ready += self._stopped.pop(owner, [])

    def resume_all(self) -> None:
        """Let all that stand still go on."""
        for owner in list(self._stopped):
            self.resume_process(owner)

    def bury(self) -> None:
        """End what was killed or is left, without letting any of it have an effect: at the end of a run."""
        self._closed = True
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be pending
                with contextlib.suppress(BaseException):
                    task.get_coro().close()
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()
        self._stopped.clear()

    # -- running

    def run_until_complete(self, future: Any) -> Any:
        """Run until it is done. Raises what it raises; Stuck where it never will be."""
        future = future if asyncio.isfuture(future) else self.create_task(future)
        self._running = True
        asyncio._set_running_loop(self)
        try:
            while not future.done():
                self._turn()
        finally:
            asyncio._set_running_loop(None)
            self._running = False
        return future.result()

    def _turn(self) -> None:
        """As the standard loop: what has come due joins the ready ones, then as many run as are ready now."""
        ready = self._ready
        del ready[: self._first]
        self._first = 0
        if not ready:
            self._pass_time()
        timers = self._timers
        while timers and timers[0][0] <= self._time:
            ready.append(heapq.heappop(timers)[2])
        for _ in range(len(ready) - self._first):
            self._step()

    def _pass_time(self) -> None:
        timers = self._timers
        while timers and (timers[0][2].was_cancelled or timers[0][2].owner in self._gone):
            heapq.heappop(timers)
        if not timers:
            raise Stuck("everybody waits, and there is nothing left to wait for")
        self._time = max(self._time, timers[0][0])

    def _step(self) -> None:
        ready, first = self._ready, self._first
        if first == len(ready):
            return
        if self.steps == self.tape.next_step:
            chosen = first + self.tape.pick(len(ready) - first, self.steps)
            ready.insert(first, ready.pop(chosen))
        callback = ready[first]
        self._first = first + 1
        self.steps += 1
        if self.steps > self.most_steps:
            raise Stuck(f"{self.steps} steps, and no end")
        if self._gone or self._stopped:
            owner = callback.owner
            if owner in self._gone:
                return
            if owner in self._stopped:
                self._stopped[owner].append(callback)
                return
        if self.trace is not None:
            self.trace.append((self.steps, callback.owner))
        if not callback.was_cancelled:
            try:
                callback.context.run(callback.callback, *callback.args)
            except Died:
                pass
            except Exception as error:  # noqa: BLE001 - the world decides what it means
                self.errors.append(error)

    # -- what asyncio asks of a loop

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._time

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None) -> Any:
        """See asyncio."""
        handle = Callback(callback, args, contextvars.copy_context() if context is None else context, self._time)
        if not self._closed:
            self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """See asyncio."""
        return self.call_at(self._time + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """See asyncio."""
        handle = Callback(callback, args, contextvars.copy_context() if context is None else context, when)
        if not self._closed:
            heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """See asyncio."""
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, Any] | Generator[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        """See asyncio."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **options)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """One step of the loop: threads are not simulated."""
        future = self.create_future()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self.call_soon(run)
        return future

    def is_running(self) -> bool:
        """See asyncio."""
        return self._running

    def is_closed(self) -> bool:
        """See asyncio."""
        return self._closed

    def get_debug(self) -> bool:
        """Never."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error that nobody caught is the world's."""
        error = context.get("exception")
        if isinstance(error, BaseException) and not self._closed:
            self.errors.append(error)

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        """There are no signals here."""
