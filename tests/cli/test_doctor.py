"""`tidings doctor`."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shop import Low, Placed, publish, work
from tests.cli.terminal import Result, failed, tidings
from tidings.cli import checkup
from tidings.cli.checkup import examine

FILE = Path("tidings.db")


def report(*args: str) -> dict[str, Any]:
    """The findings by check; of several, the worst."""
    result = tidings("doctor", "--json", *args)
    findings = sorted(result.json["checks"], key=lambda finding: ["ok", "warn", "bad"].index(finding["state"]))
    assert result.code == (0 if result.json["ok"] else 1)
    assert result.json["ok"] == (findings[-1]["state"] != "bad")
    return {finding["check"]: finding for finding in findings}


def states(*args: str) -> dict[str, str]:
    return {check: finding["state"] for check, finding in report(*args).items()}


def test_a_sound_file() -> None:
    work(Placed(order_id="a", total=1))
    found = states()
    assert found.pop("SQLite") in ("ok", "warn")
    assert found.pop("file system") in ("ok", "warn")
    assert set(found.values()) == {"ok"}
    assert found.keys() == {
        "settings", "disk", "wake-up", "access", "WAL", "file", "integrity", "records", "space", "workers", "backlog",
        "retries", "dead letters",
    }  # fmt: skip


def test_each_line_for_people_has_its_remedy() -> None:
    work(Placed(order_id="a", total=1, bad="key"))
    lines = tidings("doctor").out.splitlines()
    assert lines[0].startswith("ok    settings")
    at = next(number for number, line in enumerate(lines) if line.startswith("warn  dead letters"))
    assert "1 of shop.ship" in lines[at]
    assert lines[at + 1].strip() == "`tidings dead list shop.ship`"


def test_a_file_by_path_by_url_and_by_flag() -> None:
    publish(Low(sku="x"))
    FILE.rename("other.db")
    for args in (["other.db"], ["sqlite:other.db"], ["--broker", "sqlite:other.db"]):
        assert report(*args)["file"]["state"] == "ok"
    assert failed(tidings("doctor", "other.db", "--broker", "sqlite:other.db"), 2, "once")
    assert failed(tidings("doctor", "memory:"), 2, "one process")


def test_nothing_is_changed() -> None:
    work(Placed(order_id="a", total=1, bad="key"))
    before = FILE.read_bytes()
    report("--full")
    assert FILE.read_bytes() == before


def test_full_also_checks_the_indexes() -> None:
    publish(*(Low(sku=str(n)) for n in range(100)))
    connection = sqlite3.connect(FILE)
    connection.executescript("PRAGMA writable_schema=ON; UPDATE sqlite_master SET sql = sql || ' WHERE part = 77' "
                             "WHERE name = 'tidings_log_topic'")  # fmt: skip
    connection.close()
    assert states("--full")["integrity"] == "bad"


def test_a_record_that_the_disk_has_changed_is_found() -> None:
    publish(*(Low(sku=str(n)) for n in range(3)))
    connection = sqlite3.connect(FILE)
    connection.execute("UPDATE tidings_log SET body = replace(body, '1', '7') WHERE pos = 2")
    connection.commit()
    connection.close()
    found = report()
    assert (found["integrity"]["state"], found["records"]["state"]) == ("ok", "bad")
    assert found["records"]["detail"] == "1 record not as published, the first: 2 of tidings_log"
    assert "restore a copy" in found["records"]["remedy"]


def test_where_there_is_no_file() -> None:
    found = report("no.db")
    assert (found["file"]["state"], found["file"]["remedy"]) == (
        "bad",
        "start an app, publish something, or name another file",
    )
    assert states("/nowhere/no.db")["folder"] == "bad"
    assert not Path("no.db").exists()


def test_a_file_that_is_not_ours() -> None:
    Path("text.db").write_text("no database at all, but a text that goes on for a while\n" * 100)
    assert report("text.db")["file"]["detail"] == "file is not a database"
    connection = sqlite3.connect("foreign.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "not a database of tidings" in report("foreign.db")["file"]["detail"]
    Path("empty.db").touch()
    assert "is empty" in report("empty.db")["file"]["detail"]


def test_a_file_of_a_newer_version() -> None:
    publish(Low(sku="x"))
    connection = sqlite3.connect(FILE)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    found = report()["file"]
    assert (found["state"], found["remedy"]) == ("bad", "update tidings")
    assert "format 99" in found["detail"]


def spoil(start: int, length: int) -> Result:
    """Overwrite a part of the file, and see the doctor."""
    with FILE.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * length)
    return tidings("doctor")


@pytest.mark.parametrize("page", [1, 2, 5, 10, 20, 30])
def test_a_corrupt_file_gets_a_report_and_no_traceback(page: int) -> None:
    publish(*(Low(sku=str(n) * 100) for n in range(1000)))
    result = spoil((page - 1) * 4096 + (100 if page == 1 else 0), 3996)
    assert result.code == 1
    assert result.err == ""
    assert "bad" in result.out


def test_a_truncated_file() -> None:
    publish(*(Low(sku=str(n) * 100) for n in range(1000)))
    os.truncate(FILE, 4096 * 7 + 12)
    assert tidings("doctor").code == 1


def test_commands_on_a_corrupt_file_say_what_to_do() -> None:
    publish(*(Low(sku=str(n) * 100) for n in range(1000)))
    spoil(4096 * 2, 4096 * 60)
    assert failed(tidings("topics"), 1, "malformed", "tidings doctor")


def test_a_wrong_setting_is_bad_and_the_file_is_checked_where_it_is_named() -> None:
    publish(Low(sku="x"))
    Path("tidings.toml").write_text("leese = 3")
    assert states() == {"settings": "bad"}
    found = report("tidings.db")
    assert "'lease'" in found["settings"]["detail"]
    assert found["integrity"]["state"] == "ok"


HANG = """
import asyncio, os
from tests.cli.shop import shop


async def main():
    async with shop().running():
        os.write(1, b".")
        await asyncio.sleep(60)


asyncio.run(main())
"""


def test_workers_alive_and_dead_and_what_waits_for_them() -> None:
    work(Placed(order_id="a", total=1))
    root = str(Path(__file__).parents[2])
    worker = subprocess.Popen(
        [sys.executable, "-c", HANG], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    )
    assert worker.stdout is not None
    worker.stdout.read(1)
    found = report()
    assert (found["workers"]["state"], found["workers"]["detail"]) == ("ok", "1 alive")
    worker.kill()
    worker.communicate()
    publish(Placed(order_id="b", total=1))
    found = report()
    assert found["backlog"]["detail"] == "1 event for shop.ship, which nobody runs"
    assert found["backlog"]["state"] == "warn"


def test_a_worker_that_died_is_named() -> None:
    root = str(Path(__file__).parents[2])
    worker = subprocess.Popen(
        [sys.executable, "-c", HANG], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
    )
    assert worker.stdout is not None
    worker.stdout.read(1)
    worker.kill()
    worker.communicate()
    assert report()["workers"]["detail"] == f"process {worker.pid} died; 0 alive"


def test_suspects_and_retries_are_told() -> None:
    work()
    publish(*(Placed(order_id=f"o{n % 2}", total=n) for n in range(5)))
    connection = sqlite3.connect(FILE)
    connection.executescript(
        "INSERT INTO tidings_ack SELECT f.id, l.pos, l.part,"
        " CASE WHEN l.pos = 1 THEN 4 WHEN l.pos < 3 THEN 1 ELSE 2 END, 1, 0, l.key"
        " FROM tidings_log l JOIN tidings_feed f ON f.topic = l.topic"
    )
    connection.close()
    found = report()
    assert found["suspects"]["detail"] == "1 event of shop.ship: a worker had them when it died"
    assert found["retries"]["detail"] == "1 retried; 3 wait behind one of their 2 keys"


@pytest.mark.parametrize(
    ("name", "value", "check", "state"),
    [
        ("mount_of", lambda path: ("/mnt", "nfs4"), "file system", "bad"),
        ("mount_of", lambda path: ("/tmp", "tmpfs"), "file system", "warn"),
        ("mount_of", lambda path: ("/", "overlay"), "file system", "warn"),
        ("mount_of", lambda path: ("/", "ext4"), "file system", "ok"),
        ("mount_of", lambda path: ("", ""), "file system", "ok"),
        ("DISK_BAD", 1 << 60, "disk", "bad"),
        ("DISK_WARN", 1 << 60, "disk", "warn"),
        ("WAL_WARN", -1, "WAL", "warn"),
        ("WAL_RESET_FIXED", (99,), "SQLite", "warn"),
        ("WAL_RESET_FIXED", (3,), "SQLite", "ok"),
    ],
)
def test_limits(monkeypatch: pytest.MonkeyPatch, name: str, value: Any, check: str, state: str) -> None:
    publish(Low(sku="x"))
    monkeypatch.setattr(checkup, name, value)
    assert {finding.check: finding.state for finding in examine(FILE.absolute())}[check] == state


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_of_another_user() -> None:
    publish(Low(sku="x"))
    FILE.chmod(0o444)
    assert states()["access"] == "bad"
