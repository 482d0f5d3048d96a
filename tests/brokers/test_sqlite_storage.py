"""Files and disks that are full, read-only, corrupt, foreign, newer than we are, or far away."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lifetime import kept_open
from tidings import App, Event, PublishFailed, StorageError, StorageFull
from tidings.broker import Record, Start
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import FORMAT, Connection, Database, refuse_network
from tidings.errors import StorageBroken, StorageForeign, StorageReadOnly, StorageTooNew, StorageUnsafe

BODY = bytes(10_000)


class Told(Event, name="thing.told", key="key"):
    key: str
    text: str = ""


def opened(database: Database) -> contextlib.AbstractAsyncContextManager[SqliteBroker]:
    return kept_open(SqliteBroker(database, Clock(), keep=float("inf")))


async def all_records(broker: SqliteBroker, topic: str) -> list[Record]:
    view = await broker.subscribe([topic], None, Start.EARLIEST)
    records: list[Record] = []
    while lent := await view.fetch(1000, 0.0):
        records += [delivery.record for delivery in lent]
    await view.close()
    return records


def mounted(folder: Path, options: str) -> bool:
    """Mount a disk of our own there; False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes, on which another file takes one of them."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=2m"):
        pytest.skip("mounting needs root; the same with a limited number of pages is tested beside it")
    try:
        (folder / "ballast").write_bytes(bytes(1 << 20))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


class Limited(Database):
    """A file that may have so many pages, until `free` lifts that."""

    limit = 250

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.connections: list[Connection] = []

    def connect(self, *, durable: bool | None = None) -> Connection:
        connection = super().connect(durable=durable)
        connection.execute(f"PRAGMA max_page_count={self.limit}")
        self.connections.append(connection)
        return connection

    def free(self) -> None:
        for connection in self.connections:
            with contextlib.suppress(sqlite3.ProgrammingError):  # one of them is closed
                connection.execute("PRAGMA max_page_count=100000")


async def fill(broker: SqliteBroker) -> list[str]:
    """Publish until there is no space; returns what was kept."""
    kept: list[str] = []
    for number in range(1000):
        try:
            await broker.publish([Record("t", BODY, f"k{number % 3}", "t", f"r{number:04}")])
        except StorageFull:
            return kept
        kept.append(f"r{number:04}")
    raise AssertionError("the disk is larger than it should be")


async def _full_and_free_again(database: Database, free: Callable[[], None]) -> None:
    async with opened(database) as broker:
        group = await broker.subscribe(["t"], "g")
        kept = await fill(broker)
        assert len(kept) > 10
        lent = list(await group.fetch(1000, 1.0))
        assert [delivery.record.id for delivery in lent] == kept, "reading goes on"
        with pytest.raises(StorageFull):
            await broker.publish([Record("t", BODY, None, "t", "refused")])
        free()
        await broker.publish([Record("t", BODY, None, "t", "after")])
        await group.ack(lent)
        assert [delivery.record.id for delivery in await group.fetch(10, 1.0)] == ["after"]
        assert [record.id for record in await all_records(broker, "t")] == [*kept, "after"]
    connection = sqlite3.connect(database.path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


async def test_a_full_disk_is_told_and_writing_goes_on_when_there_is_space(disk: Path) -> None:
    await _full_and_free_again(Database(disk / "tidings.db"), (disk / "ballast").unlink)


async def test_a_full_file_is_told_and_writing_goes_on_when_there_is_space(tmp_path: Path) -> None:
    database = Limited(tmp_path / "tidings.db")
    await _full_and_free_again(database, database.free)


async def test_handlers_wait_for_space_and_go_on_by_themselves(disk: Path) -> None:
    app = App("shop", f"sqlite:{disk / 'tidings.db'}")
    seen: list[str] = []
    rows = app.table("rows", bytes)

    @app.on(Told)
    async def hear(told: Told) -> None:
        seen.append(told.key)

    async with app.running():
        assert app.connection is not None
        kept = 0
        with contextlib.suppress(StorageFull):
            for kept in range(1000):
                await app.publish(Told(key=f"k{kept}", text="x" * 20_000))
        with pytest.raises(StorageFull):
            async with app.transaction() as transaction:
                transaction.put(rows, "row", bytes(1 << 20))
        (disk / "ballast").unlink()
        await app.publish(Told(key="after"))
        async with asyncio.timeout(60):
            while "after" not in seen:  # noqa: ASYNC110 - as a user would look
                await asyncio.sleep(0.02)
    assert set(seen) == {f"k{number}" for number in range(kept)} | {"after"}


def fill_up(folder: Path) -> Path:
    """A file that takes all the space that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


async def test_opening_on_a_full_disk_is_told(disk: Path) -> None:
    database = Database(disk / "tidings.db")
    async with opened(database) as broker:
        await broker.publish([Record("t", b"", None, "t", "r1")])
    filler = fill_up(disk)
    with pytest.raises(StorageFull):
        async with opened(database):
            pass
    filler.unlink()
    async with opened(database) as broker:
        assert [record.id for record in await all_records(broker, "t")] == ["r1"]


def test_what_is_lent_is_not_written_where_there_is_no_space(disk: Path) -> None:
    """In a process of its own: a write through the map to a hole in the file would kill it."""
    fill_up(disk)
    program = """
import pathlib, sys
from tidings.embedded.membership import Lent
Lent(pathlib.Path(sys.argv[1])).write(0, [0], 1)
"""
    command = [sys.executable, "-c", program, disk / "tidings.db.lent"]
    assert "StorageFull" in subprocess.run(command, check=False, capture_output=True, text=True).stderr


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A folder, and what makes it read-only, for root too."""
    folder = tmp_path / "folder"
    folder.mkdir()
    root = mounted(folder, "size=10m")

    def freeze() -> Path:
        if root:
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        else:
            folder.chmod(0o555)
        return folder

    try:
        yield freeze
    finally:
        if root:
            subprocess.run(["umount", "--lazy", folder], check=True)
        else:
            folder.chmod(0o755)


async def test_a_new_file_in_a_read_only_folder_is_refused(read_only: Callable[[], Path]) -> None:
    with pytest.raises(StorageReadOnly, match="cannot be written"):
        async with opened(Database(read_only() / "tidings.db")):
            pass


async def test_a_file_in_a_read_only_folder_is_refused(tmp_path: Path, read_only: Callable[[], Path]) -> None:
    path = tmp_path / "folder" / "tidings.db"
    async with opened(Database(path)) as broker:
        await broker.publish([Record("t", b"", None, "t", "r1")])
    read_only()
    with pytest.raises(StorageReadOnly, match="cannot be written"):
        async with opened(Database(path)):
            pass


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere does not exist"):
        async with opened(Database(tmp_path / "nowhere" / "tidings.db")):
            pass


def seen(path: Path) -> tuple[bytes, int]:
    """What is in the file, and how many files are open."""
    return path.read_bytes(), len(os.listdir("/proc/self/fd"))


async def _refused(path: Path, error: type[StorageError], match: str) -> None:
    """It is refused, left as it was, and nothing of the attempt stays open."""
    before = seen(path)
    with pytest.raises(error, match=match):
        async with opened(Database(path)):
            pass
    assert seen(path) == before, "the file was changed, or one stays open"


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 1000)
    await _refused(path, StorageForeign, "not a SQLite database")


async def test_a_database_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE people (name TEXT)")
    connection.close()
    await _refused(path, StorageForeign, "did not make")


async def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tidings.db"
    async with opened(Database(path)):
        pass
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={FORMAT + 1}")
    connection.close()
    await _refused(path, StorageTooNew, "Update tidings")


async def _written(path: Path) -> None:
    async with opened(Database(path)) as broker:
        await broker.publish([Record("t", BODY, None, "t", f"r{number:03}") for number in range(100)])


async def _read(path: Path) -> None:
    async with opened(Database(path)) as broker:
        await all_records(broker, "t")


async def test_a_truncated_file_is_refused_and_never_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "tidings.db"
    await _written(path)
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    with pytest.raises(StorageBroken, match="tidings doctor"):
        await _read(path)
    assert path.stat().st_size > 4096


async def test_a_page_that_is_overwritten_is_told_by_who_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "tidings.db"
    await _written(path)
    with path.open("r+b") as file:
        for page in range(20, path.stat().st_size // 4096, 7):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    with pytest.raises(StorageBroken, match="Nothing more is written"):
        await _read(path)


async def test_nothing_more_is_written_to_a_file_that_turns_out_to_be_broken(tmp_path: Path) -> None:
    path = tmp_path / "tidings.db"
    async with opened(Database(path)) as broker:
        await broker.publish([Record("t", b"", None, "t", "r1")])

        def corrupt(connection: Connection) -> None:
            (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tidings_delay'").fetchone()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            with path.open("r+b") as file:
                file.seek((page - 1) * 4096)
                file.write(os.urandom(4096))

        await asyncio.to_thread(corrupt, broker.database.connect())
        later = Record("t", b"", None, "t", "r2", due=broker.clock.now() + 3600.0)
        with pytest.raises(StorageBroken):
            await broker.publish([later])
        with pytest.raises(StorageBroken):
            await broker.publish([Record("t", b"", None, "t", "r3")])


MOUNTS = """\
/dev/vda1 / ext4 rw 0 0
server:/export /mnt/share nfs4 rw 0 0
/dev/vdb1 /mnt/share/local ext4 rw 0 0
//server/c /mnt/with\\040space cifs rw 0 0
tmpfs /mnt/shared tmpfs rw 0 0
host /mnt/host fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize("path", ["/mnt/share/a.db", "/mnt/share/deep/a.db", "/mnt/with space/a.db", "/mnt/host/a.db"])
def test_network_file_systems_are_refused(path: str) -> None:
    with pytest.raises(StorageUnsafe, match="local disk"):
        refuse_network(Path(path), MOUNTS)


@pytest.mark.parametrize("path", ["/a.db", "/mnt/share/local/a.db", "/mnt/shared/a.db", "/mnt/a.db", "/home/x/a.db"])
def test_local_file_systems_are_not(path: str) -> None:
    refuse_network(Path(path), MOUNTS)


async def test_a_symbolic_link_is_the_file_that_it_points_to(tmp_path: Path) -> None:
    """Both names are one database: its lock, its wake-ups and what was lent are shared."""
    real, link = tmp_path / "real.db", tmp_path / "link.db"
    link.symlink_to(real)
    async with opened(Database(real)) as one, opened(Database(link)) as other:
        group = await one.subscribe(["t"], "g")
        waiting = asyncio.create_task(group.fetch(1, 20.0))
        await asyncio.sleep(0.05)
        began = one.clock.monotonic()
        await other.publish([Record("t", b"", None, "t", "r1")])
        assert len(await waiting) == 1
        assert one.clock.monotonic() - began < 0.4, "it was polled for"
    assert [name for name in os.listdir(tmp_path) if name.startswith("link")] == ["link.db"]


async def test_what_cannot_be_written_names_what_was_not_sent(tmp_path: Path) -> None:
    class Impatient(Database):
        def connect(self, *, durable: bool | None = None) -> Connection:
            connection = super().connect(durable=durable)
            connection.execute("PRAGMA busy_timeout=100")
            return connection

    async with opened(Impatient(tmp_path / "tidings.db")) as broker:
        await broker.publish([Record("t", b"", None, "t", "r1")])
        foreign = sqlite3.connect(tmp_path / "tidings.db", isolation_level=None)
        foreign.execute("BEGIN EXCLUSIVE")
        with pytest.raises(PublishFailed) as failed:
            await broker.publish([Record("t", b"", None, "t", "r2"), Record("t", b"", None, "t", "r3")])
        assert failed.value.unsent == ("r2", "r3")
        foreign.execute("COMMIT")
        foreign.close()
        await broker.publish([Record("t", b"", None, "t", "r2")])
        assert [record.id for record in await all_records(broker, "t")] == ["r1", "r2"]
