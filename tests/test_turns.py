from collections import deque

from tidings.broker import Delivery, Record
from tidings.turns import Turns


def delivery(key: str | None, receipt: int, topic: str = "t") -> Delivery:
    return Delivery(Record(topic, b"", key), 1, receipt)


def taken(turns: Turns) -> list[int]:
    receipts = []
    while (lent := turns.take()) is not None:
        receipts.append(lent.receipt)
    return receipts


def test_one_of_a_key_at_a_time() -> None:
    turns = Turns()
    turns.add([delivery("a", 1), delivery("a", 2), delivery("b", 3), delivery(None, 4), delivery(None, 5)])
    assert taken(turns) == [1, 3, 4, 5]
    turns.add([delivery("a", 6), delivery("c", 7)])
    turns.end("a")
    assert taken(turns) == [2, 7]
    turns.end("a")
    assert taken(turns) == [6]


def test_a_taker_may_take_more_of_its_own_keys() -> None:
    turns = Turns()
    turns.add([delivery("a", 1), delivery("a", 2), delivery("b", 3)])
    assert turns.take() is not None
    second = turns.take({"a"})
    assert second is not None
    assert second.receipt == 2


def test_withdrawn_with_its_key_and_topic() -> None:
    turns = Turns()
    turns.add([delivery("a", 1), delivery("a", 2), delivery("b", 3), delivery("a", 4, "other"), delivery("a", 5)])
    first = turns.take()
    assert first is not None
    assert taken(turns) == [3]
    turns.add([delivery("a", 6)])
    assert turns.withdraw(first) == 3
    turns.end("a")
    assert taken(turns) == [4]


def test_again_comes_before_all_others_and_behind_nothing() -> None:
    turns = Turns()
    turns.add([delivery("a", 2), delivery("b", 3)])
    running = turns.take()
    assert running is not None
    assert turns.again(delivery("a", 1))
    assert not turns.again(delivery("c", 0))
    turns.end_behind(running, 1)
    assert taken(turns) == [1, 0, 3]
    turns.end("a")
    assert taken(turns) == [2]


def test_stopped_it_gives_nothing_away() -> None:
    turns = Turns()
    turns.add([delivery("a", 1), delivery("a", 2)])
    assert turns.take() is not None
    assert turns.take() is None
    turns.stop()
    turns.end("a")
    assert turns.queue == deque()
