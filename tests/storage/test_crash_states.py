"""Whatever a crash leaves of the file: it opens, is whole, and holds what was acknowledged and nothing in part."""

import random

import pytest

from tests.storage.disk import contents, moments, states, written
from tests.storage.judge import promises
from tests.storage.survey import record, survey
from tests.storage.tape import Created, Cut, Deleted, Entry, Mark, Sync, Write
from tests.storage.vfs import reachable

pytestmark = pytest.mark.skipif(not reachable(), reason="this SQLite is built into the interpreter")


@pytest.fixture(scope="module")
def tape() -> list[Entry]:
    return record()


async def test_nothing_acknowledged_is_missing_and_nothing_is_there_in_part(tape: list[Entry]) -> None:
    found = await survey(tape, samples=1, lives=1)
    assert found.examples == {}
    assert (found.corrupt, found.states_with_loss) == (0, 0)
    assert found.syncs > 90
    assert found.states > 700


def test_a_promise_is_made_after_its_commit(tape: list[Entry]) -> None:
    assert all(promise.published <= promise.committed for promise in promises(tape))


@pytest.mark.parametrize("fault", [("--sync", "NORMAL"), ("--deaf",)], ids=" ".join)
async def test_a_file_that_is_not_synced_loses_what_was_acknowledged(fault: tuple[str, ...]) -> None:
    """The planted faults: what finds nothing wrong must be able to."""
    found = await survey(record(*fault), samples=1, lives=0)
    assert found.states_with_loss > 20
    assert found.worst_loss > 1


# -- the model of the disk


FIRST, SECOND = Write("f", 0, b"a" * 1024), Write("f", 1024, b"b" * 1024)


def found(tape: list[Entry]) -> list[tuple[str, dict[str, bytes]]]:
    return [(state.damage, state.files) for moment in moments(tape) for state in states(moment, 2)]


def test_what_was_synced_is_there() -> None:
    tape: list[Entry] = [Created("f-wal"), FIRST._replace(file="f-wal"), Sync("f-wal"), Mark("later")]
    *_, (damage, files) = found(tape)
    assert (damage, files) == ("all is there", {"f-wal": b"a" * 1024})


def test_a_name_is_there_once_its_folder_is_synced() -> None:
    tape: list[Entry] = [
        Created("f"),
        FIRST,
        Sync("f"),
        Created("f-wal"),
        Write("f-wal", 0, b"x"),
        Sync("f-wal"),
        Mark(""),
    ]
    by_moment = [{frozenset(state.files) for state in states(moment, 1)} for moment in moments(tape)]
    assert frozenset() in by_moment[1], "neither name was durable"
    assert by_moment[2] == {frozenset({"f", "f-wal"})}


def test_what_was_removed_may_come_back() -> None:
    tape: list[Entry] = [Created("f-wal"), FIRST._replace(file="f-wal"), Sync("f-wal"), Deleted("f-wal", synced=False),
                         Created("f"), FIRST]  # fmt: skip
    assert {"f-wal": b"a" * 1024} in [files for _, files in found(tape)]


def test_writes_are_lost_reordered_and_torn() -> None:
    damages = dict(contents(b"0" * 2048, [FIRST, SECOND, Write("f", 512, b"c" * 1024)], 4, random.Random(1)))
    assert damages["all is lost"] == b"0" * 2048
    assert damages["the first half"] == b"a" * 1024 + b"0" * 1024
    assert damages["backwards"] == b"a" * 1024 + b"b" * 1024
    assert damages["torn"].count(b"c") == 512
    assert damages["torn, then zeros"].count(0) == 512
    assert set(damages["torn, then garbage"]) - set(b"0abc")


def test_a_cut_file_may_be_as_long_as_it_was() -> None:
    assert written(b"12345", [Cut("f", 2), Write("f", 4, b"x")]) == b"12\0\0x"
    assert ("all is lost", b"12345") in contents(b"12345", [Cut("f", 2)], 1, random.Random(1))
