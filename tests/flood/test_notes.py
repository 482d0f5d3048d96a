"""What a worker has noted can be read while it writes, and when it is dead."""

from pathlib import Path

from tidings.broker import Record
from tidings.flood.ledger import Ledger, account
from tidings.flood.notes import BACK, DERIVED, FOREIGN, SETTLED, TOLD, Notebook, Reader, id_of

RUN = "flood-1-"


def arrival(number: int) -> Record:
    return Record("order", b"{}", id=id_of(RUN, number))


def answer(number: int) -> Record:
    return Record("payment", b"{}", id="another", headers={"correlationid": id_of(RUN, number)})


def test_events_are_known_by_their_arrival(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path / "1.notes", RUN)
    notebook.note(SETTLED, "shop.pay", [arrival(7), answer(8), Record("order", b"", id="a stranger")], 1.5)
    notebook.close()

    (block,) = Reader(tmp_path).read()
    assert (block.kind, block.name, block.at) == (SETTLED, "shop.pay", 1.5)
    assert list(block.numbers) == [7, 8 | DERIVED, FOREIGN]


def test_a_reader_gets_what_is_new_of_all_files_and_waits_for_what_is_half_written(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    one, other = (Notebook(tmp_path / f"{number}.notes", RUN) for number in (1, 2))
    one.note(SETTLED, "a", [arrival(1)], 1.0)
    assert [block.name for block in reader.read()] == ["a"]
    assert not list(reader.read())

    other.note(TOLD, "b", [arrival(2)], 2.0)
    one.note(SETTLED, "a", [arrival(3)], 3.0)
    path = tmp_path / "1.notes"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    assert [block.name for block in reader.read()] == ["b"]
    path.write_bytes(whole)
    assert [(block.name, list(block.numbers)) for block in reader.read()] == [("a", [3])]
    one.close()
    other.close()


def test_what_is_missing_and_what_came_twice_is_told(tmp_path: Path) -> None:
    notebook, ledger = Notebook(tmp_path / "1.notes", RUN), Ledger()
    notebook.note(SETTLED, "shop.pay", [arrival(0), arrival(1), arrival(1)], 1.0)
    notebook.note(TOLD, "payment", [answer(0), answer(1)], 1.0)
    notebook.note(BACK, "shop.ship", [answer(1)], 1.5)
    notebook.note(SETTLED, "shop.ship", [answer(0)], 2.0)
    notebook.close()
    for block in Reader(tmp_path).read():
        ledger.take(block)

    acked = [True, True, True, False]
    pay = account(ledger, "shop.pay", topics=["order"], acked=acked, topic=lambda number: "order")
    ship = account(ledger, "shop.ship", topics=["payment"], acked=acked, topic=lambda number: "order")
    assert (pay.settled, pay.missing, pay.twice) == (2, 1, 1)
    assert (ship.settled, ship.missing, ship.twice) == (1, 1, 0)
    assert ledger.back["shop.ship"] == 1
