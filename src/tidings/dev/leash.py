"""A small process between us and a server that we started: when we are gone, however we went, it ends the server.

Linux's PR_SET_PDEATHSIG would be shorter, but its signal comes when the *thread* that started the process ends, it is
forgotten when the process changes its user, and it reaches no grandchildren.

This file is also the program: `python leash.py PARENT SIGNAL FOLDER COMMAND...` runs the command and watches standard
input. A byte there asks for an orderly end by SIGNAL; its end, or another parent than PARENT, says that nobody is left
who could use the server, nor FOLDER, which is removed then unless it is empty text. It sees only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

GRACE = 10.0
"""Seconds for an orderly end; then it is killed."""
GLANCE = 1.0
"""Seconds between two looks at who the parent is: a fork of it may hold the pipe open."""
PR_SET_CHILD_SUBREAPER = 36
PROC = Path("/proc")


def signal_tree(root: int, number: int) -> None:
    """Send a signal to every process below `root`, also to those that they start meanwhile."""
    told: set[int] = set()
    while fresh := _below(root) - told:
        for pid in fresh:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        told |= fresh


def _below(root: int) -> set[int]:
    """The processes that descend from `root`, without itself."""
    parents = _parents()
    found: set[int] = set()
    edge = {root}
    while edge:
        edge = {pid for pid, parent in parents.items() if parent in edge} - found
        found |= edge
    return found


def _parents() -> dict[int, int]:
    """The parent of each process of this machine."""
    if not (PROC / "self" / "stat").exists():
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True, text=True)  # noqa: S607
        return {int(pid): int(parent) for pid, parent in map(str.split, listed.stdout.splitlines())}
    parents: dict[int, int] = {}
    for pid in filter(str.isdecimal, os.listdir(PROC)):
        with contextlib.suppress(OSError):  # it has just ended
            after_name = (PROC / pid / "stat").read_bytes().rpartition(b")")[2]
            parents[int(pid)] = int(after_name.split()[1])
    return parents


def main(parent: int, number: int, folder: str, command: list[str]) -> int:
    """Run the command until it ends or has to; what it leaves behind ends with it. Returns its exit code."""
    _adopt_orphans()
    for harmless in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a handler, since what is ignored is inherited
        signal.signal(harmless, lambda *_: None)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    alone = threading.Event()
    threading.Thread(target=_watch, args=(parent, number, server.pid, alone), daemon=True).start()
    code = _reap(server.pid)
    signal_tree(os.getpid(), signal.SIGKILL)
    _reap(None)
    if alone.is_set() and folder:
        shutil.rmtree(folder, ignore_errors=True)
    return code


def _adopt_orphans() -> None:
    """Daemons and the children of who is killed become ours, so that they are found; only Linux knows this."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(server: int | None) -> int:
    """Wait for the server, and for orphans on the way; None for all that are left. Returns an exit code."""
    with contextlib.suppress(ChildProcessError):  # nobody is left
        while True:
            pid, status = os.wait()
            if pid == server:
                return os.waitstatus_to_exitcode(status)
    return 0


def _watch(parent: int, number: int, server: int, alone: threading.Event) -> None:
    """End the server when that is asked for, or when nobody is left to ask."""
    while os.getppid() == parent and not select.select([0], [], [], GLANCE)[0]:
        pass
    if os.getppid() != parent or not os.read(0, 1):
        alone.set()
    with contextlib.suppress(ProcessLookupError):
        os.kill(server, number)
    signal_tree(os.getpid(), signal.SIGCONT)
    time.sleep(GRACE)
    signal_tree(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]))
