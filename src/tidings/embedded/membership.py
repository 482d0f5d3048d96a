"""Who of a group owns which parts of the keys.

The keys of every topic fall into `PARTS` parts by hash. Each part of a group belongs to one member at a time, so that
two processes never handle one key at once. A member is a row whose id is never used again: that id is the fencing
token, checked in the transaction that settles.

A member is dead when its lease ran out, or, on the same machine, when its process is gone. What it had been lent is
then marked as suspect: it is lent with nothing else beside it, so that a record that kills its process is found out.
How far it had been lent is in a side file that survives the process (`<file>.lent`), because a commit before every
batch would cost an fsync and only the death of a process needs it, not that of the machine.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tidings import failpoint
from tidings.embedded.database import Connection
from tidings.errors import StorageFull

PARTS = 16
DONE, RETRY, HELD, LENT, SUSPECT = range(5)

SCHEMA = """
CREATE TABLE IF NOT EXISTS tidings_member (id INTEGER PRIMARY KEY AUTOINCREMENT, grp INTEGER NOT NULL,
    process TEXT NOT NULL, lease REAL NOT NULL);
CREATE INDEX IF NOT EXISTS tidings_member_group ON tidings_member(grp);
CREATE TABLE IF NOT EXISTS tidings_part (grp INTEGER NOT NULL, part INTEGER NOT NULL, owner INTEGER,
    PRIMARY KEY (grp, part)) WITHOUT ROWID;
"""
JOIN = "INSERT INTO tidings_member (grp, process, lease) VALUES (?, ?, ?)"
HEARTBEAT = "UPDATE tidings_member SET lease = ? WHERE process = ?"
MEMBERS = "SELECT id, grp, process, lease FROM tidings_member"
MEMBERS_OF = "SELECT id FROM tidings_member WHERE grp = ? ORDER BY id"
FREE = "SELECT part FROM tidings_part WHERE grp = ? AND owner IS NULL ORDER BY part"
OWNED = "SELECT part FROM tidings_part WHERE grp = ? AND owner = ? ORDER BY part"
CLAIM = "UPDATE tidings_part SET owner = ? WHERE grp = ? AND part <= ? AND owner IS NULL"
RELEASE = "UPDATE tidings_part SET owner = NULL WHERE grp = ? AND part = ? AND owner = ?"
RELEASE_ALL = "UPDATE tidings_part SET owner = NULL WHERE owner = ?"
LEAVE = "DELETE FROM tidings_member WHERE id = ?"
RETRIED_AGAIN = """UPDATE tidings_ack SET state = CASE WHEN :died OR tries > 1 THEN 4 ELSE 1 END,
    tries = tries - 1 + :died, due = 0 WHERE feed = :feed AND part = :part AND state = 3"""
LENT_AGAIN = """INSERT INTO tidings_ack (feed, pos, part, state, tries, due, key)
    SELECT :feed, l.pos, l.part, CASE WHEN :died THEN 4 ELSE 1 END, :died, 0, l.key
    FROM tidings_log l WHERE l.topic = :topic AND l.part = :part AND l.pos > :low AND l.pos <= :high
    AND NOT EXISTS (SELECT 1 FROM tidings_ack a WHERE a.feed = :feed AND a.pos = l.pos)"""
IN_LINE = """UPDATE tidings_ack SET state = 2 WHERE feed = :feed AND part = :part AND state IN (1, 4)
    AND EXISTS (SELECT 1 FROM tidings_ack b
        WHERE b.feed = :feed AND b.key = tidings_ack.key AND b.pos < tidings_ack.pos)"""
DONE_BELOW = "DELETE FROM tidings_ack WHERE feed = :feed AND part = :part AND state = 0 AND pos <= :high"
NEWEST = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tidings_log'), 0)"
FEEDS = """SELECT f.id, f.topic, p.part, p.pos FROM tidings_feed f JOIN tidings_position p ON p.feed = f.id
    WHERE f.grp = ?"""
ADVANCE = "UPDATE tidings_position SET pos = :high WHERE feed = :feed AND part = :part AND pos < :high"


class Lent:
    """How far each part of a feed has been lent: an array in shared memory that outlives its process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._map: mmap.mmap | None = None
        try:
            self._room(0)  # now, not when something is lent: who opens the file is told what is lacking
        except BaseException:
            os.close(self._file)
            raise

    def _room(self, feed: int) -> mmap.mmap:
        size = (feed + 1) * PARTS * 8
        if self._map is None or len(self._map) < size:
            self._reserve((size | 0xFFFF) + 1)
            self._map = mmap.mmap(self._file, 0)
        return self._map

    def _reserve(self, size: int) -> None:
        """Have space, not a hole: to write to one through the map on a full disk would kill the process."""
        try:
            if sys.platform == "linux":
                os.posix_fallocate(self._file, 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"No space is left ({error}); free some, it goes on by itself.") from error
        if os.fstat(self._file).st_size < size:  # where space cannot be reserved
            os.ftruncate(self._file, size)

    def write(self, feed: int, parts: Iterable[int], pos: int) -> None:
        """These parts have been lent up to `pos`."""
        room = self._room(feed)
        if len(parts := list(parts)) == PARTS:
            struct.pack_into(f"<{PARTS}q", room, feed * PARTS * 8, *(pos,) * PARTS)
            return
        for part in parts:
            struct.pack_into("<q", room, (feed * PARTS + part) * 8, pos)

    def read(self, feed: int, part: int) -> int:
        """How far this part has been lent."""
        (pos,) = struct.unpack_from("<q", self._room(feed), (feed * PARTS + part) * 8)
        return int(pos)

    def close(self) -> None:
        """Let go of the file."""
        if self._map is not None:
            self._map.close()
        os.close(self._file)


class Process:
    """The name of a process in a member's row, from which others on its machine see whether it lives."""

    def __init__(self, nonce: str) -> None:
        self.name = f"{_machine()}/{os.getpid()}/{_started(os.getpid())}/{nonce}"

    @staticmethod
    def dead(name: str) -> bool:
        """Whether the process is surely gone. False where that cannot be known from here."""
        machine, pid, started, _ = name.split("/")
        mine = _machine()
        if machine and mine and machine.partition(".")[0] != mine.partition(".")[0]:
            return True  # from before the machine was started again, when leases were counted on another clock
        if machine != mine or not started:
            return False
        return _started(int(pid)) != started


def boot() -> str:
    """What tells this run of the machine from its others; empty where that is not known."""
    return _machine().partition(".")[0]


@functools.cache
def _machine() -> str:
    if not sys.platform.startswith("linux"):
        return ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    return ""


def _started(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def bury_members(connection: Connection, ids: Sequence[int], lent: Lent) -> None:
    """Take the parts of dead members away and mark what they held as suspect."""
    for member in ids:
        hand_over(connection, member, lent, died=True)
        failpoint.hit("burying")


def bury_silent(connection: Connection, leases: Mapping[int, float], lent: Lent) -> None:
    """Bury those of these members who have not renewed the lease that was seen: one may have while we waited."""
    now = {id: lease for id, _, _, lease in connection.execute(MEMBERS)}
    bury_members(connection, [id for id, lease in leases.items() if now.get(id) == lease], lent)


def hand_over(connection: Connection, member: int, lent: Lent, *, died: bool) -> None:
    """Take a member's parts away. What it held gets rows of its own, of each key only the first one free to be lent.

    Beside a copy that was restored lies how far the newer file had been lent: no position may pass the end of the log.
    """
    row = connection.execute("SELECT grp FROM tidings_member WHERE id = ?", (member,)).fetchone()
    if row is None:
        return
    owned = {part for (part,) in connection.execute(OWNED, (row[0], member))}
    (newest,) = connection.execute(NEWEST).fetchone()
    for feed, topic, part, low in connection.execute(FEEDS, row).fetchall():
        if part in owned:
            high = max(min(lent.read(feed, part), newest), low)
            values = {"feed": feed, "topic": topic, "part": part, "low": low, "high": high, "died": died}
            for step in (RETRIED_AGAIN, LENT_AGAIN, IN_LINE, ADVANCE, DONE_BELOW):
                connection.execute(step, values)
    connection.execute(RELEASE_ALL, (member,))
    connection.execute(LEAVE, (member,))


def balance(connection: Connection, group: int, member: int) -> list[int]:
    """Claim free parts up to a fair share; returns all that the member then owns."""
    members = [id for (id,) in connection.execute(MEMBERS_OF, (group,))]
    owned = [part for (part,) in connection.execute(OWNED, (group, member))]
    missing = max(share(members, member) - len(owned), 0)
    claimed = [part for (part,) in connection.execute(FREE, (group,)).fetchall()[:missing]]
    if claimed:
        connection.execute(CLAIM, (member, group, claimed[-1]))
    return sorted(owned + claimed)


def share(members: Sequence[int], member: int) -> int:
    """How many parts are this member's due."""
    if member not in members:
        return 0
    each, more = divmod(PARTS, len(members))
    return each + (1 if members.index(member) < more else 0)
