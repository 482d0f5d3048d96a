"""What a group remembers of one partition."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tidings.broker import Delivery, Record
from tidings.kafka.ledger import DONE, ROOM, SHIFT, Ledger


def lend(ledger: Ledger, offset: int) -> None:
    ledger.lend(Delivery(Record("t", b""), ledger.attempt(offset), ledger.number << SHIFT | offset))


def after_death(ledger: Ledger) -> Ledger:
    return Ledger(ledger.topic, ledger.partition, ledger.floor, ledger.told())


def attempts(ledger: Ledger, offsets: Sequence[int]) -> list[int]:
    return [ledger.attempt(offset) for offset in offsets]


def test_what_was_out_comes_once_more_and_what_was_done_does_not() -> None:
    ledger = Ledger("t", 0, 100)
    for offset in range(100, 110):
        lend(ledger, offset)
    for offset in (100, 101, 105):
        del ledger.out[offset]
    assert (ledger.floor, ledger.told()) == (102, "tidings  3x2 1x0 4x2")
    assert attempts(after_death(ledger), range(102, 112)) == [2, 2, 2, DONE, 2, 2, 2, 2, 1, 1]


def test_each_death_counts_only_what_was_out() -> None:
    ledger = Ledger("t", 0, 0)
    for offset in range(3):
        lend(ledger, offset)
    for death in range(2, 5):
        ledger = after_death(ledger)
        assert attempts(ledger, range(4)) == [death, 2, 2, 1]
        lend(ledger, 0)


def test_what_is_taken_back_comes_as_it_came() -> None:
    ledger = Ledger("t", 0, 0)
    for offset in range(4):
        lend(ledger, offset)
    del ledger.out[1]
    ledger.take_back(list(ledger.out.values())[1:])
    assert attempts(ledger, range(5)) == [DONE, DONE, 1, 1, 1]
    assert attempts(after_death(ledger), range(5)) == [2, DONE, 1, 1, 1]


def test_what_the_broker_no_longer_keeps_does_not_hold_the_offset() -> None:
    ledger = after_death(_out(range(3)))
    lend(ledger, 2)
    assert (ledger.floor, ledger.attempt(1)) == (2, DONE)


def test_texts_of_others_mean_nothing() -> None:
    assert Ledger("t", 0, 7, "somebody else's").floor == 7


def _out(offsets: Sequence[int]) -> Ledger:
    ledger = Ledger("t", 0, offsets[0])
    for offset in offsets:
        lend(ledger, offset)
    return ledger


@given(st.lists(st.sampled_from(["lend", "skip", "done", "die", "back"]), max_size=60), st.randoms())
def test_it_knows_what_a_plain_model_knows(steps: list[str], random: object) -> None:
    ledger = Ledger("t", 0, 5)
    out: dict[int, int] = {}
    left: dict[int, int] = {}
    following = 5
    for step in steps:
        if step == "lend":
            offset = min(left, default=following)
            following = max(following, offset + 1)
            out[offset] = left.pop(offset, 1)
            assert ledger.attempt(offset) == out[offset]
            lend(ledger, offset)
        elif step == "skip":
            following += 1
            left.clear()
            lend(ledger, following)
            out[following] = 1
            following += 1
        elif step == "done" and out:
            offset = random.choice(sorted(out))  # type: ignore[attr-defined]
            del out[offset], ledger.out[offset]
        elif step == "back" and out:
            last = max(out)
            left[last] = out.pop(last)
            ledger.take_back([ledger.out[last]])
        elif step == "die":
            left |= {offset: attempt + 1 for offset, attempt in out.items()}
            out.clear()
            ledger = after_death(ledger)
        unfinished = {**out, **left}
        assert ledger.floor == min(unfinished, default=ledger.next)
        known = {offset: ledger.attempt(offset) for offset in range(5, ledger.next) if ledger.attempt(offset)}
        assert known == left


def test_a_text_that_is_too_long_forgets_what_was_done_and_never_what_was_not() -> None:
    ledger = _out(range(10_000))
    for offset in range(1, 10_000, 2):
        del ledger.out[offset]
    assert len(ledger.told()) <= ROOM
    again = after_death(ledger)
    assert {again.attempt(offset) for offset in range(0, 10_000, 2)} == {2}
    assert again.attempt(10_000) == 1
