"""What can be wrong with an embedded broker, each check by itself; nothing here writes.

A check yields findings. What one of them cannot read is a finding too, so that a corrupt file gets a report.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tidings import dead
from tidings.cli.catalog import internal
from tidings.cli.output import counted
from tidings.clock import Clock
from tidings.embedded import wakeup
from tidings.embedded.catalog import Catalog
from tidings.embedded.database import FORMAT, NETWORK_FILE_SYSTEMS, WAL_RESET_FIXED, mount_of
from tidings.errors import (
    StorageBroken,
    StorageBusy,
    StorageError,
    StorageForeign,
    StorageReadOnly,
    StorageTooNew,
)
from tidings.survey import Finding, State, size

MIB = 1 << 20
DISK_BAD, DISK_WARN = 64 * MIB, 1024 * MIB
WAL_WARN = 128 * MIB
FREE_WARN = 64 * MIB
SIDE_FILES = (".lock", ".notify", ".lent", "-wal", "-shm")
RESTORE = "stop every process on it and restore a copy; `sqlite3 FILE .recover` saves what can be read"
REMEDIES: dict[type[StorageError], str] = {
    StorageBroken: RESTORE,
    StorageBusy: "try again",
    StorageForeign: "name another file",
    StorageReadOnly: "check its owner and that of its folder",
    StorageTooNew: "update tidings",
}
IN_MEMORY = {"tmpfs", "ramfs"}
IN_A_CONTAINER = {"overlay", "aufs"}


def examine(path: Path, *, full: bool = False) -> Iterator[Finding]:
    """Check the file at `path`, where it lies, and what it holds."""
    yield from _place(path)
    yield from _sqlite()
    if not path.is_file():
        yield Finding(
            "file", "bad", f"there is none at {path}", "start an app, publish something, or name another file"
        )
        return
    yield from _access(path)
    yield from _wal(path)
    try:
        there = Catalog(path)
    except StorageError as error:
        yield _broken("file", error)
        return
    with there:
        yield Finding("file", "ok", f"{path}, format {FORMAT}, {size(path.stat().st_size)}")
        checks: dict[str, Callable[[Catalog], Iterator[Finding]]] = {
            "integrity": _full if full else _quick, "records": _records, "space": _space, "workers": _workers,
            "backlog": _backlog, "exceptions": _exceptions, "dead letters": _dead,
        }  # fmt: skip
        for name, check in checks.items():
            try:
                yield from check(there)
            except StorageError as error:
                yield _broken(name, error)


def _broken(check: str, error: StorageError) -> Finding:
    """What SQLite says, without what a command that is no doctor would advise."""
    return Finding(check, "bad", str(error.__cause__ or error), REMEDIES.get(type(error)))


# -- around the file


def _place(path: Path) -> Iterator[Finding]:
    folder = path.parent
    if not folder.is_dir():
        yield Finding("folder", "bad", f"{folder} does not exist", "create it or choose another path")
        return
    point, kind = mount_of(path)
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding("file system", "bad", f"{kind} at {point} is a network file system, where locks and fsync cannot "
                      "be trusted", "put the file on a local disk, or use a broker with a server")  # fmt: skip
    elif kind in IN_MEMORY:
        yield Finding("file system", "warn", f"{kind} at {point} lives in memory: gone with the next boot",
                      "put the file on a disk")  # fmt: skip
    elif kind in IN_A_CONTAINER:
        yield Finding("file system", "warn", f"{kind} at {point} is a container's own layer: gone with the container",
                      "mount a volume for the file")  # fmt: skip
    else:
        yield Finding("file system", "ok", f"{kind} at {point}" if kind else "of unknown kind")
    free = shutil.disk_usage(folder).free
    state: State = "bad" if free < DISK_BAD else "warn" if free < DISK_WARN else "ok"
    remedy = None if state == "ok" else "free some; writing goes on by itself"
    yield Finding("disk", state, f"{size(free)} free", remedy)


def _sqlite() -> Iterator[Finding]:
    if sqlite3.sqlite_version_info < WAL_RESET_FIXED:
        yield Finding("SQLite", "warn", f"{sqlite3.sqlite_version} can corrupt a WAL that a foreign connection "
                      "checkpoints during a commit (fixed in 3.51.3); tidings itself avoids it",
                      "on connections of your own set PRAGMA wal_autocheckpoint=0")  # fmt: skip
    else:
        yield Finding("SQLite", "ok", sqlite3.sqlite_version)
    if not sys.platform.startswith("linux"):
        yield Finding("wake-up", "ok", "there is no inotify here: readers poll")
        return
    watch = wakeup.watch(Path.cwd())
    if watch is None:
        yield Finding("wake-up", "warn", "inotify refuses a watch, so readers poll: slower, and never idle",
                      "raise fs.inotify.max_user_instances")  # fmt: skip
    else:
        os.close(watch)
        yield Finding("wake-up", "ok", "inotify")


def _access(path: Path) -> Iterator[Finding]:
    """By permissions alone: to open a file that SQLite has open would cost this process its locks."""
    files = [path, *(file for suffix in SIDE_FILES if (file := path.with_name(path.name + suffix)).exists())]
    refused = [file.name for file in files if not os.access(file, os.R_OK | os.W_OK)]
    if not os.access(path.parent, os.W_OK | os.X_OK):
        refused.append(f"the folder {path.parent}")
    if refused:
        yield Finding("access", "bad", f"this user may not write {', '.join(refused)}",
                      "run as the user that they belong to, or change their owner")  # fmt: skip
    else:
        yield Finding("access", "ok", "the file, those beside it and the folder can be written")


def _wal(path: Path) -> Iterator[Finding]:
    wal = path.with_name(path.name + "-wal")
    length = wal.stat().st_size if wal.exists() else 0
    if length > WAL_WARN:
        yield Finding("WAL", "warn", f"{size(length)}: somebody reads in one transaction for too long",
                      "end long transactions on connections of your own; it shrinks by itself")  # fmt: skip
    else:
        yield Finding("WAL", "ok", size(length))


# -- in the file


def _quick(there: Catalog) -> Iterator[Finding]:
    return _integrity(there, full=False)


def _full(there: Catalog) -> Iterator[Finding]:
    return _integrity(there, full=True)


def _integrity(there: Catalog, *, full: bool) -> Iterator[Finding]:
    damage = there.damage(full=full)
    if damage:
        yield Finding("integrity", "bad", "; ".join(damage[:3]), RESTORE)
    else:
        yield Finding("integrity", "ok", "whole, indexes and all" if full else "whole (--full also checks the indexes)")


def _records(there: Catalog) -> Iterator[Finding]:
    damaged = there.altered()
    if damaged:
        first = ", ".join(f"{each.place} of {each.table}" for each in damaged[:3])
        yield Finding("records", "bad", f"{counted(len(damaged), 'record')} not as published, the first: {first}",
                      RESTORE)  # fmt: skip
    else:
        yield Finding("records", "ok", "as published")


def _space(there: Catalog) -> Iterator[Finding]:
    pages = there.pages()
    free, part = pages.free * pages.size, pages.free / max(pages.total, 1)
    detail = f"{size(free)} of {size(pages.total * pages.size)} are free pages"
    if free > FREE_WARN and part > 0.5:
        yield Finding(
            "space", "warn", detail, "they are used again; with every process stopped, VACUUM gives them back"
        )
    else:
        yield Finding("space", "ok", detail)


def _workers(there: Catalog) -> Iterator[Finding]:
    members = there.members(Clock().monotonic())
    gone = sorted({member.pid for member in members if member.dead})
    alive = {member.pid for member in members if not member.dead}
    if gone:
        yield Finding("workers", "warn", f"process {', '.join(map(str, gone))} died; {len(alive)} alive",
                      "the next one that runs takes over what they held: `tidings run`")  # fmt: skip
    else:
        yield Finding("workers", "ok", f"{len(alive)} alive" if alive else "none is running")


def _backlog(there: Catalog) -> Iterator[Finding]:
    clock = Clock()
    served = {member.group for member in there.members(clock.monotonic()) if not member.dead}
    total, unserved = 0, 0
    for group, topics in there.groups().items():
        if internal(group):
            continue
        waiting = sum(there.lag(topic, group, clock.now()).waiting or 0 for topic in topics)
        total += waiting
        if waiting and group not in served:
            unserved += 1
            yield Finding("backlog", "warn", f"{counted(waiting, 'event')} for {group}, which nobody runs",
                          "start it with `tidings run`")  # fmt: skip
    if not unserved:
        yield Finding("backlog", "ok", f"{counted(total, 'event')}, all for handlers that run" if total else "none")


def _exceptions(there: Catalog) -> Iterator[Finding]:
    found = {group: at for group, at in there.exceptions().items() if not internal(group)}
    for group, at in found.items():
        if at.suspect:
            held = f"{counted(at.suspect, 'event')} of {group}: a worker had them when it died"
            yield Finding("suspects", "warn", held,
                          "they come one at a time, and one that kills again becomes a dead letter")  # fmt: skip
    retrying = sum(at.retrying + at.lent for at in found.values())
    waiting, keys = sum(at.waiting for at in found.values()), sum(at.held_keys for at in found.values())
    detail = f"{retrying} retried; {waiting} wait behind one of their {keys} keys" if retrying or waiting else "none"
    yield Finding("retries", "ok", detail)


def _dead(there: Catalog) -> Iterator[Finding]:
    open_ones = 0
    for group in there.groups():
        if group.startswith(dead.OPERATOR):
            handler = group.removeprefix(dead.OPERATOR)
            count = there.lag(dead.topic_of(handler), group, 0.0).waiting or 0
            open_ones += count
            if count:
                yield Finding("dead letters", "warn", f"{count:,} of {handler}", f"`tidings dead list {handler}`")
    if not open_ones:
        yield Finding("dead letters", "ok", "none")
