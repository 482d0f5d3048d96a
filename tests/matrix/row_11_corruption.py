"""11: the disk has changed a bit of a page, or what it keeps of the WAL ends too early.

Each page of a file that holds all there may be gets one bit flipped, anywhere in it; each such file is read by SQLite,
by `tidings doctor --full` and by a member that is lent all there is (`tests/storage/damage.py`, which by itself flips
more). A WAL is cut at every 512 bytes, and one bit of each of its frames is flipped.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.matrix import Figures, Row
from tests.storage.damage import COMMITS, Log, survey
from tests.storage.survey import folder_in_memory

ROUNDS = 2
"""Bits of each page."""
WITH_CHECKSUM = {"tidings_log", "tidings_delay"}


async def pages(folder: Path) -> Figures:
    """What becomes of a flipped bit: an event that it changes or hides is found."""
    outcomes: Counter[str] = Counter()
    unnoticed: Counter[str] = Counter()
    async for page, (verdict, where) in survey(folder, ROUNDS):
        outcomes[verdict] += 1
        if verdict == "unnoticed":
            assert where, f"page {page}: events are lent otherwise, and nothing tells"
            assert WITH_CHECKSUM.isdisjoint(where), f"page {page}: an event was changed, and nothing tells"
            unnoticed.update(where)
    assert outcomes.keys() <= {"harmless", "refused", "found", "unnoticed"}
    assert outcomes["refused"] > 0
    assert outcomes["found"] > 0
    return {
        "bits flipped": outcomes.total(), "in what is not used, or without effect": outcomes["harmless"],
        "refused by who reads": outcomes["refused"], "found by `tidings doctor --full`": outcomes["found"],
        "events changed or hidden, not found": 0,
        "not found, in tables without a checksum": outcomes["unnoticed"],
        **{f"of these in {table}": count for table, count in unnoticed.items()},
    }  # fmt: skip


async def wal(folder: Path) -> Figures:
    """Whatever is cut off, what is left is the first so many commits."""
    log = await Log.of(folder)
    left: dict[str, list[int]] = {"cut": [], "flipped": []}
    for damage, content in log.damages():
        left[damage].append(log.left(content))
    assert left["cut"] == sorted(left["cut"])
    assert left["cut"][0] == 0
    assert left["cut"][-1] >= COMMITS - 1
    return {
        "WAL cut": len(left["cut"]), "bits of it flipped": len(left["flipped"]),
        "not whole, or an event missing before one that is there": 0,
    }  # fmt: skip


async def run(_: Path) -> Figures:
    with folder_in_memory() as pages_folder, folder_in_memory() as wal_folder:
        return {**await pages(Path(pages_folder)), **await wal(Path(wal_folder))}


ROW = Row(
    "11",
    "a bit of a page is flipped, one page at a time; the WAL is cut at every 512 bytes, or a bit of it is flipped",
    "who reads what is damaged gets StorageBroken, which names `tidings doctor`; that finds every event that was "
    "changed or hidden. Of a damaged WAL the commits before the damage are left, whole and in order; SQLite does not "
    "tell that there were more",
    run,
)
