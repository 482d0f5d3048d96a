"""Every disk that a crash could have left.

The model is that of a disk with a cache and a file system that promises no more than POSIX does. What was synced is
there. Of what was written since, any part may be, in any order, and a write may be torn at a sector of 512 bytes, with
garbage or zeros in the sectors after it. Files do not wait for each other. Names (made, removed) are pending until the
folder is synced, which SQLite does with the first sync of a new journal or WAL.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tests.storage.tape import Created, Cut, Deleted, Entry, Mark, Sync, Write

SECTOR = 512
Change = Write | Cut
Files = dict[str, bytes]


class Inode:
    """The content of a file: what is durable, and what was done to it since."""

    def __init__(self) -> None:
        self.durable = b""
        self.pending: list[Change] = []
        self.new = True  # its folder is synced with it


class Moment(NamedTuple):
    """A point at which the power may fail: during the sync `number`, of `file`. `entry` is its place on the tape."""

    number: int
    entry: int
    file: str
    now: Mapping[str, Inode]
    durable: Mapping[str, Inode]


class State(NamedTuple):
    """What is found after a crash, and how it came about."""

    moment: Moment
    damage: str
    files: Files


def moments(tape: Sequence[Entry]) -> Iterator[Moment]:
    """The crash points of a tape: before each sync is done, and the end. Each is valid until the next is asked for."""
    now: dict[str, Inode] = {}
    durable: dict[str, Inode] = {}
    number = 0
    for place, entry in enumerate(tape):
        match entry:
            case Created(file):
                now[file] = Inode()
            case Write(file) | Cut(file):
                now[file].pending.append(entry)
            case Deleted(file, synced):
                del now[file]
                if synced:
                    durable = now.copy()
            case Sync(file):
                yield Moment(number, place, file, now, durable)
                number += 1
                inode = now[file]
                inode.durable, inode.pending = written(inode.durable, inode.pending), []
                if inode.new and file.endswith(("-wal", "-journal")):
                    durable = now.copy()
                    inode.new = False
            case Mark():
                pass
    last = max(now, key=lambda file: len(now[file].pending))
    yield Moment(number, len(tape), last, now, durable)


def states(moment: Moment, samples: int) -> Iterator[State]:
    """What may be left at this moment; `samples` of each kind of damage that has more than a few."""
    chance = random.Random(moment.number)
    inode = moment.now[moment.file]
    seen = set()
    for named in names(moment):
        rest = {name: other for name, other in named.items() if other is not inode}
        for kept in (True, False) if any(other.pending for other in rest.values()) else (True,):
            others = {name: written(each.durable, each.pending if kept else ()) for name, each in rest.items()}
            for damage, content in contents(inode.durable, inode.pending, samples, chance):
                files = others | {name: content for name, each in named.items() if each is inode}
                if (key := frozenset(files.items())) not in seen:
                    seen.add(key)
                    yield State(moment, damage, files)


def names(moment: Moment) -> Iterator[dict[str, Inode]]:
    """Each name of the folder is the one that was synced, or the one that is: all old, all new, one by one new."""
    yield dict(moment.now)
    changed = [name for name in moment.now.keys() | moment.durable.keys()
               if moment.now.get(name) is not moment.durable.get(name)]  # fmt: skip
    if changed:
        yield dict(moment.durable)
    for name in sorted(changed) if len(changed) > 1 else ():
        one = dict(moment.durable)
        one.pop(name, None)
        yield one | ({name: moment.now[name]} if name in moment.now else {})


def contents(
    durable: bytes, pending: Sequence[Change], samples: int, chance: random.Random
) -> Iterator[tuple[str, bytes]]:
    """What a file may hold, with the name of the damage."""
    half = len(pending) // 2
    for damage, part in (
        ("all is there", pending), ("all is lost", []), ("the first half", pending[:half]),
        ("the second half", pending[half:]), ("every other one", pending[::2]), ("the others", pending[1::2]),
        ("backwards", pending[::-1]),
    ):  # fmt: skip
        yield damage, written(durable, part)
    for missing in few(range(len(pending)), samples, chance):
        yield "one is lost", written(durable, [*pending[:missing], *pending[missing + 1 :]])
    for last in few(range(len(pending)), samples, chance):
        change = pending[last]
        if isinstance(change, Write):
            before = written(durable, pending[:last])
            for damage, torn in tears(before, change, samples, chance):
                yield damage, torn
                yield f"{damage}, the rest is there", written(torn, pending[last + 1 :])
    whole = written(durable, pending)
    for _ in range(samples if pending else 0):
        yield "sectors at random", lottery(durable, whole, chance)


def few(places: range, most: int, chance: random.Random) -> Sequence[int]:
    """All of them or, where they are many, the last and some others."""
    return places if len(places) <= most else [*chance.sample(places[:-1], most - 1), places[-1]]


def tears(before: bytes, write: Write, samples: int, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """The write up to a sector; and the same with garbage in the next, or zeros in all that follow."""
    end = write.offset + len(write.data)
    edges = range((write.offset // SECTOR + 1) * SECTOR, end, SECTOR)
    for edge in few(edges, samples, chance):
        head = write.data[: edge - write.offset]
        yield "torn", written(before, [Write(write.file, write.offset, head)])
        garbage = head + chance.randbytes(min(SECTOR, end - edge))
        yield "torn, then garbage", written(before, [Write(write.file, write.offset, garbage)])
        yield "torn, then zeros", written(before, [Write(write.file, write.offset, head + bytes(end - edge))])


def lottery(old: bytes, new: bytes, chance: random.Random) -> bytes:
    """Each sector that differs is the old or the new one. Where the file has grown, an old one is zeros."""
    found = bytearray(new)
    for at in range(0, len(new), SECTOR):
        was = old[at : at + SECTOR].ljust(min(SECTOR, len(new) - at), b"\0")
        if found[at : at + SECTOR] != was and chance.random() < 0.5:
            found[at : at + SECTOR] = was
    return bytes(found)


def written(content: bytes, changes: Sequence[Change]) -> bytes:
    """The content after these changes. Where a write begins past the end, zeros come between."""
    found = bytearray(content)
    for change in changes:
        if isinstance(change, Cut):
            del found[change.size :]
            continue
        if len(found) < change.offset:
            found.extend(bytes(change.offset - len(found)))
        found[change.offset : change.offset + len(change.data)] = change.data
    return bytes(found)
