from hypothesis import given
from hypothesis import strategies as st

from tidings import DecodeError, Retry
from tidings.retry import policy, rule_for


def test_delays_grow_by_the_factor_up_to_the_most() -> None:
    rule = Retry(times=6, first=1.0, factor=4.0, most=100.0, jitter=0.0)
    assert [rule.delay(attempt, 0.5) for attempt in range(1, 8)] == [1.0, 4.0, 16.0, 64.0, 100.0, 100.0, None]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_never_out_of_bounds(attempt: int, chance: float) -> None:
    delay = Retry(times=None, first=0.5, most=60.0, jitter=0.2).delay(attempt, chance)
    assert delay is not None
    assert 0.4 <= delay <= 72.0


def test_tries_in_the_lane_are_few_and_short() -> None:
    pauses = [Retry(at_once=2).pause(again, 0.5) for again in range(3)]
    assert pauses[2] is None
    assert all(0 < pause < 0.1 for pause in pauses[:2] if pause is not None)


def test_never_is_never() -> None:
    assert Retry.NEVER.delay(1, 0.0) is None
    assert Retry.NEVER.pause(0, 0.0) is None
    assert Retry.NEVER.exhausted(2)
    assert not Retry.NEVER.exhausted(1)


def test_the_nearest_base_class_decides_and_what_cannot_be_mended_is_never_tried_again() -> None:
    slow, quick = Retry(first=60.0), Retry(first=0.1)
    rules = policy({OSError: slow, ConnectionError: quick})
    assert rule_for(rules, ConnectionResetError()) is quick
    assert rule_for(rules, FileNotFoundError()) is slow
    assert rule_for(rules, ValueError()) == Retry()
    assert rule_for(rules, DecodeError()) is Retry.NEVER
    assert rule_for(policy({DecodeError: slow}), DecodeError()) is slow


def test_an_event_is_exhausted_after_its_first_try_and_its_retries() -> None:
    rule = Retry(times=3)
    assert [rule.exhausted(attempt) for attempt in (1, 4, 5)] == [False, False, True]
    assert not Retry(times=None).exhausted(10**6)
