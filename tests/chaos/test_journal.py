"""The journal of a publisher survives its death, and says where it was cut off."""

from pathlib import Path

import pytest

from tidings.chaos.journal import ACKED, AGAIN, ATTEMPTED, Entries, Follower, Journal, read


def test_a_line_that_was_being_written_is_forgotten_and_said(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.write(ATTEMPTED, [1, 2, 3])
    journal.write(ACKED, [1, 2])
    with path.open("a") as file:
        file.write("acked 3")
    assert read(path) == Entries({1, 2, 3}, {1, 2}, torn=1)


def test_the_next_publisher_does_not_continue_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).write(ATTEMPTED, [1, 2, 31])
    with path.open("a") as file:
        file.write("acked 3")
    again = Journal(path)
    assert again.entries == Entries({1, 2, 31}, set(), torn=1)
    again.write(ACKED, [1])
    assert read(path) == Entries({1, 2, 31}, {1}, torn=1)


@pytest.mark.parametrize("cut", range(len("attempted 1 2\nacked 1 2\n")))
def test_a_journal_is_read_up_to_where_it_was_cut(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    text = "attempted 1 2\nacked 1 2\n"
    path.write_text(text[:cut])
    entries = read(path)
    assert entries.attempted == ({1, 2} if cut >= len("attempted 1 2\n") else set())
    assert entries.acked == set()
    assert entries.torn == (cut not in {0, len("attempted 1 2\n")})


def test_what_follows_a_line_that_is_no_entry_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"attempted 1\n\xff\x00\nacked 1\n")
    assert read(path) == Entries({1}, torn=1)


def test_a_second_acknowledgement_is_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.write(ATTEMPTED, [1, 2])
    journal.write(AGAIN, [2])
    assert read(path) == Entries({1, 2}, {2}, {2})


def test_a_follower_counts_what_is_new(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    follower = Follower(paths)
    follower.look()
    assert follower.attempted == 0
    first, second = map(Journal, paths)
    first.write(ATTEMPTED, [1, 2, 3])
    first.write(ACKED, [1, 2, 3])
    with paths[1].open("a") as file:
        file.write("attempted 4 5")
    follower.look()
    assert follower.attempted == 3
    with paths[1].open("a") as file:
        file.write(" 6\n")
    second.write(ATTEMPTED, [7])
    follower.look()
    follower.look()
    assert follower.attempted == 7
