"""Where threads and tasks are just now, a line each, innermost last: file, line and function, no values."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from types import FrameType
from typing import Any

DEPTH = 16


def of_thread(ident: int) -> str:
    """Where a thread is."""
    frame = sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage] - documented
    return "gone" if frame is None else _joined([(f, line) for f, line in traceback.walk_stack(frame)][::-1])


def of_all(loop: asyncio.AbstractEventLoop) -> str:
    """Where all threads of the process and all tasks of the loop are."""
    threads = [f"thread {thread.name}: {of_thread(thread.ident or 0)}" for thread in threading.enumerate()]
    tasks = [f"task {task.get_name()}: {of_task(task)}" for task in asyncio.all_tasks(loop)]
    return "\n".join([*threads, *sorted(tasks)])


def of_task(task: asyncio.Task[Any]) -> str:
    """Where a task waits: through every coroutine that awaits another."""
    frames: list[tuple[FrameType, int]] = []
    waiting: Any = task.get_coro()
    while waiting is not None and len(frames) < 64:
        frame = _first(waiting, "cr_frame", "ag_frame", "gi_frame")
        if frame is not None:
            frames.append((frame, frame.f_lineno))
        waiting = _first(waiting, "cr_await", "ag_await", "gi_yieldfrom")
    return _joined(frames)


def _first(of: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(of, name, None)) is not None), None)


def _joined(frames: list[tuple[FrameType, int]]) -> str:
    where = [f"{_short(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}" for frame, line in frames[-DEPTH:]]
    return " > ".join(where) or "done"


def _short(path: str) -> str:
    return "/".join(path.split("/")[-2:])
