"""`tidings demo` as its users meet it: real processes, real kills, a real terminal."""

import contextlib
import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from examples.shop.audit import ON_ORDER
from examples.shop.history import read_orders
from tests.cli.terminal import failed, finish
from tests.servers.shared import require
from tidings.cli.demo.view import duration, quantile
from tidings.cli.demo.worker import Figures
from tidings.dev import Nats, Server, Valkey
from tidings.meter import SECONDS

KEYS = {
    "orders", "effects", "lost", "duplicated", "dead", "kills", "seconds", "orders_per_second", "recovery", "sales",
}  # fmt: skip
SHOW_CURSOR = b"\x1b[?25h"
INVOICES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,A,a lantern,3,12/1/10 8:26,2.55,17850,United Kingdom
2,A,a lantern,130,12/1/10 8:30,2.10,13047,France
3,A,a lantern,1,12/1/10 8:31,3.00,,United Kingdom
C4,A,a lantern,-2,12/1/10 9:00,2.55,17850,United Kingdom
"""

pytestmark = pytest.mark.crash


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tidings", "demo", *arguments]


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        command("--headless", "--json", *arguments), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout, done.stderr
    ledger: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return done.returncode, ledger


def once_each(ledger: dict[str, Any], orders: int) -> bool:
    effects = dict.fromkeys(ON_ORDER, orders)
    return ledger["effects"] == effects and (ledger["orders"], ledger["lost"], ledger["duplicated"]) == (orders, 0, 0)


def workers_of(database: Path) -> list[int]:
    """The worker processes that work in this database."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes()
                if b"tidings.cli.demo.worker" in command and f'"sqlite:{database}"'.encode() in command:
                    found.append(int(folder.name))
    return found


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def closed(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM orders_closed").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_with_a_worker_killed_each_effect_is_there_once() -> None:
    code, ledger = run("--limit=400", "--kills=1")
    assert ledger.keys() == KEYS
    assert once_each(ledger, 400)
    assert (code, ledger["kills"], ledger["dead"]) == (0, 1, 0)
    past = list(islice(read_orders(), 400))
    dollars = sum((each.total for each in past), Decimal(0))
    assert ledger["sales"] == {"cds": sum(sum(each.items.values()) for each in past), "dollars": str(dollars)}
    assert ledger["orders_per_second"] == pytest.approx(400 / ledger["seconds"], rel=0.01)
    assert 0 < ledger["recovery"] <= ledger["seconds"]


def test_cancellations_are_worked_off_and_a_dead_letter_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "invoices.csv"
    path.write_text(INVOICES)
    code, ledger = run(f"--orders={path}", "--kills=0")
    assert (code, ledger["orders"], ledger["lost"], ledger["duplicated"]) == (0, 3, 0, 0)
    assert ledger["effects"] == {**dict.fromkeys(ON_ORDER, 3), "mail": 2}
    assert ledger["dead"] == 1
    assert ledger["sales"] == {"cds": 132, "dollars": "278.55"}


def test_killed_and_started_again_it_goes_on_where_it_was(tmp_path: Path) -> None:
    database = tmp_path / "shop.db"
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # what it cannot remove when it is killed
    process = subprocess.Popen(command("--headless", "--speed=400", "--limit=900", f"--db={database}"), env=environment)
    with ended(process):
        wait_until(lambda: database.exists() and closed(database) > 100)
        process.kill()
    wait_until(lambda: not workers_of(database))
    assert 100 < closed(database) < 900
    code, ledger = run("--limit=900", "--kills=0", f"--db={database}")  # a kill finds no work where all was published
    assert once_each(ledger, 900)
    assert (code, ledger["kills"]) == (0, 0)


def test_what_is_lost_or_done_twice_is_found(tmp_path: Path) -> None:
    database = tmp_path / "shop.db"
    assert run("--limit=50", "--kills=0", f"--db={database}")[0] == 0
    with contextlib.closing(sqlite3.connect(database)) as books:
        books.execute("DELETE FROM shipping_parcels WHERE rowid IN (7, 8)")
        books.execute("INSERT INTO sales SELECT * FROM sales WHERE rowid = 3")
        books.commit()
    code, ledger = run("--limit=50", "--kills=0", f"--db={database}")
    assert (code, ledger["lost"], ledger["duplicated"]) == (1, 2, 1)
    assert (ledger["effects"]["shipping"], ledger["effects"]["sales"]) == (48, 51)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"a,b,c\n1,2,3\n", "line 1, the header"), (b"customer_id,date,cds,dollars\n7,1997-01-01,x,1\n", "column cds")],
)
def test_a_bad_file_is_refused_with_a_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "orders.csv"
    path.write_bytes(content)
    done = subprocess.run(command("--headless", f"--orders={path}"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_file_that_is_no_shop_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, whatever else it is" * 100)
    done = subprocess.run(command("--headless", f"--db={path}"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not a SQLite database" in done.stderr
    assert "Traceback" not in done.stderr


# -- on servers


QUICK = {
    "kafka": "?partitions=2&lease=2",
    "nats": "?parts=2&lease=2",
    "postgres": "?lease=2",
    "rabbitmq": "?parts=2",
    "valkey": "?parts=2&lease=2",
}
"""Short leases, so that a dead worker is soon found, and few parts, so that they are soon made."""


@pytest.fixture(params=sorted(QUICK))
def server(request: pytest.FixtureRequest) -> Server:
    running: Server = request.getfixturevalue(f"{request.param}_server")
    return running


@pytest.mark.timeout(300)  # where the machine is busy: a server starts, and three workers make its topics
def test_on_a_server_a_killed_worker_loses_and_doubles_nothing(server: Server) -> None:
    code, ledger = run("--limit=200", "--kills=1", f"--broker={server.url}{QUICK[server.kind]}")
    assert once_each(ledger, 200)
    assert (code, ledger["kills"], ledger["dead"]) == (0, 1, 0)
    assert ledger["recovery"] > 0


def test_a_server_that_is_named_is_started_for_the_shop_and_gone_after_it(tmp_path: Path) -> None:
    require(Nats)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command("--headless", "--json", "--broker=nats", "--limit=20", "--kills=0"),
        env=environment, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert once_each(json.loads(done.stdout.splitlines()[-1]), 20), done.stderr
    assert list(tmp_path.iterdir()) == [], "its folder, and the shop's"


@pytest.mark.timeout(300)
def test_a_server_that_goes_away_ends_it_with_a_sentence(tmp_path: Path) -> None:
    require(Valkey)
    store = tmp_path / "shop.db"
    with Valkey() as server:
        broker = f"--broker={server.url}{QUICK['valkey']}"
        arguments = ["--headless", "--speed=50", "--limit=5000", broker, f"--store=sqlite:{store}"]
        process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        with ended(process):
            wait_until(lambda: store.exists() and closed(store) > 5, 120.0)
            server.stop()
            result = finish(process)
        assert failed(result, 1, f"redis://127.0.0.1:{server.port} broke off after ", " of 5,000 orders: ")
        assert result.err.endswith("The shop is kept; the same command goes on.\n")
        wait_until(lambda: not workers_of(store))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--broker=natz"], "no server 'natz' to start; there are: nats, valkey"),
        (["--broker=carrier-pigeon://loft"], "unknown scheme 'carrier-pigeon'"),
        (["--broker=nats://127.0.0.1:9"], "127.0.0.1:9"),
        (["--broker=nats://127.0.0.1:9", "--store=redis://127.0.0.1"], "there are: sqlite:PATH"),
        (["--broker=memory:"], "write sqlite:shop.db"),
        (["--broker=sqlite:shop.db", "--db=shop.db"], "leave one of them out"),
    ],
)
def test_a_place_that_cannot_be_is_refused_with_a_sentence(arguments: list[str], says: str) -> None:
    done = subprocess.run(command("--headless", *arguments), capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_what_an_earlier_run_has_left_on_a_server_is_not_mixed_with_new_books(
    nats_server: Server, tmp_path: Path
) -> None:
    broker = f"--broker={nats_server.url}?prefix=left"
    kept = f"--store=sqlite:{tmp_path / 'shop.db'}"
    process = subprocess.Popen(command("--headless", "--speed=300", "--limit=400", broker, kept))
    with ended(process):
        wait_until(lambda: (tmp_path / "shop.db").exists() and closed(tmp_path / "shop.db") > 20)
        process.kill()
    wait_until(lambda: not workers_of(tmp_path / "shop.db"))
    done = subprocess.run(command("--headless", broker), capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert "its books are not here" in done.stderr
    code, ledger = run("--limit=400", "--kills=0", broker, kept)
    assert code == 0
    assert once_each(ledger, 400)


class Terminal:
    """A command on a terminal of its own. What it writes is read all the time, or it would wait for us."""

    def __init__(self, *arguments: str) -> None:
        self.shown = b""
        self._ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
        self.process = subprocess.Popen(
            command(*arguments), stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)

    def read_until(self, true: Callable[[], bool], seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, self.shown[-2000:]
            self._read()
        self._read()

    def _read(self) -> None:
        if select.select([self._ours], [], [], 0.02)[0]:
            with contextlib.suppress(OSError):  # the other end is closed
                self.shown += os.read(self._ours, 65536)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_ctrl_c_ends_it_leaves_no_process_and_gives_the_terminal_back(tmp_path: Path) -> None:
    database = tmp_path / "shop.db"
    with contextlib.closing(Terminal(f"--db={database}")) as terminal:
        terminal.read_until(lambda: database.exists() and closed(database) > 20)
        assert len(workers_of(database)) == 3
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until(lambda: terminal.process.poll() is not None)
    assert terminal.process.returncode == 130
    assert not workers_of(database)
    _, last_picture, after = terminal.shown.rpartition(b"recommendations")
    assert last_picture
    assert SHOW_CURSOR in after
    assert b"the same command goes on" in after


def test_the_picture_shows_the_services(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    run("--limit=300", "--speed=600", f"--picture={picture}")
    svg = picture.read_text()
    assert all(service in svg for service in ON_ORDER)
    assert "url(" not in svg.replace("url(#", ""), "it loads nothing from elsewhere"


def test_a_quantile_lies_between_the_bounds_of_its_bucket() -> None:
    counts = [0] * (len(SECONDS) + 1)
    assert quantile(counts, 0.5) is None
    counts[SECONDS.index(0.01)] = 10
    median = quantile(counts, 0.5)
    assert median == pytest.approx(0.0075)
    counts[-1] = 1000
    assert quantile(counts, 0.99) == SECONDS[-1]


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0.0042, "4 ms"), (0.999, "999 ms"), (2.34, "2.3 s")])
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_figures_of_two_lives_add_up_but_for_what_was_in_hand() -> None:
    first = Figures(5, 1, 1, 0, 3, [1, 2])
    assert first.left_behind() + Figures(2, 0, 0, 1, 4, [0, 7]) == Figures(7, 1, 1, 1, 4, [1, 9])
