"""Who is dead, and who has what of theirs."""

import os
import sqlite3
import subprocess
import sys

import pytest

from tidings.broker import Record
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded.database import Connection
from tidings.embedded.membership import PARTS, Process, share
from tidings.errors import StorageBusy

NAME = Process("nonce").name
MACHINE, PID, STARTED, _ = NAME.split("/")
BOOT, SPACE = MACHINE.split(".")


def test_this_process_lives() -> None:
    assert not Process.dead(NAME)


def test_a_process_that_has_ended_is_dead() -> None:
    program = "from tidings.embedded.membership import Process; print(Process('n').name)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert Process.dead(ended.stdout.strip())


@pytest.mark.parametrize(
    ("name", "dead"),
    [
        (f"{MACHINE}/{PID}/{int(STARTED) - 1}/n", True),  # its number is used again
        (f"00000000-0000-0000-0000-000000000000.{SPACE}/{PID}/{STARTED}/n", True),  # before the machine was restarted
        (f"{BOOT}.1/{PID}/{STARTED}/n", False),  # in a container, whose processes cannot be seen from here
        (f"/{PID}//n", False),  # where nothing is known of machines
        (f"{MACHINE}/{PID}//n", False),
    ],
    ids=["its number is used again", "another boot", "a container", "no machine", "no start"],
)
def test_only_who_is_surely_gone_is_dead(name: str, dead: bool) -> None:
    assert Process.dead(name) is dead


async def test_who_was_there_before_the_machine_was_restarted_keeps_nothing(broker: SqliteBroker) -> None:
    """Its lease was counted on a clock that has begun anew, and would not end for as long as that had run before."""
    await broker.declare("t", ["g"])
    await broker.publish([Record("t", b"", f"k{number}", "t", f"r{number}") for number in range(16)])

    def survive(connection: Connection) -> None:
        name = f"00000000-0000-0000-0000-000000000000.{SPACE}/{os.getpid()}/{STARTED}/n"
        values = (name, broker.clock.monotonic() + 1e6)
        member = connection.execute("INSERT INTO tidings_member (grp, process, lease) VALUES (1, ?, ?)", values)
        connection.execute("UPDATE tidings_part SET owner = ?", (member.lastrowid,))

    await broker.run(survive)
    group = await broker.subscribe(["t"], "g")
    assert len(await group.fetch(100, 5.0)) == 16


def test_parts_are_shared_fairly() -> None:
    for count in range(1, 20):
        members = list(range(10, 10 + count))
        shares = [share(members, member) for member in members]
        assert sum(shares) == PARTS
        assert max(shares) - min(shares) <= 1
    assert share([1, 2], 3) == 0


async def test_a_claim_that_failed_is_made_again(broker: SqliteBroker) -> None:
    """Otherwise the parts that the others have given up would be nobody's for as long as nobody joins or leaves."""
    first = await broker.subscribe(["t"], "g")
    second = await broker.subscribe(["t"], "g")
    await first.rebalance()  # gives up half
    await broker.run(lambda connection: connection.execute("PRAGMA busy_timeout=0"))
    foreign = sqlite3.connect(broker.database.path, isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageBusy):
        await second.rebalance()
    foreign.execute("ROLLBACK")
    foreign.close()
    assert second.stale
    await second.fetch(1, 0.0)
    assert owners(broker) == {first.member: PARTS // 2, second.member: PARTS // 2}


def owners(broker: SqliteBroker) -> dict[int | None, int]:
    return dict(broker.read("SELECT owner, count(*) FROM tidings_part GROUP BY owner"))
