"""A member's steward tends its parts and leaves once; a line waits for what it lends."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from tidings.clock import Clock
from tidings.errors import Closed, Fenced, Unreachable
from tidings.fetching import first_found
from tidings.steward import Steward

SOON, LONG = 0.001, 600.0


class Parts:
    """What is tended. It goes as is planned, and then well; it is said when all that was planned has happened."""

    def __init__(self, *plan: BaseException | None) -> None:
        self.times = 0
        self.left = 0
        self.done = asyncio.Event()
        self._plan = list(plan)

    async def tend(self) -> None:
        self.times += 1
        problem = self._plan.pop(0) if self._plan else None
        if not self._plan:
            self.done.set()
        if problem is not None:
            raise problem

    async def leave(self) -> None:
        await asyncio.sleep(0)
        self.left += 1


def steward(parts: Parts, *, every: float = LONG, again: float = LONG) -> Steward:
    return Steward("a member", Clock(), tend=parts.tend, every=every, again=again)


async def test_it_tends_now_and_then() -> None:
    parts = Parts(None, None, None)
    looks = steward(parts, every=SOON)
    looks.start()
    await parts.done.wait()
    await looks.leave(parts.leave)


async def test_it_tends_at_once_when_something_stirs_and_again_when_it_was_fenced() -> None:
    parts = Parts(Fenced("gone"), None)
    looks = steward(parts)
    looks.start()
    looks.stir()
    await parts.done.wait()
    looks.check()
    await looks.leave(parts.leave)
    assert parts.times == 2


async def test_trouble_is_kept_and_told_once_until_it_goes_well(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(Unreachable("away"), Unreachable("still away"), None)
    looks = steward(parts, again=SOON)
    seen: list[object] = []
    tend = parts.tend

    async def watched() -> None:
        seen.append(looks.trouble and str(looks.trouble))
        await tend()

    looks._tend = watched
    with caplog.at_level(logging.WARNING, "tidings"):
        looks.start()
        looks.stir()
        await parts.done.wait()
        await asyncio.sleep(0)
    assert seen == [None, "away", "still away"]
    assert looks.trouble is None
    assert caplog.messages == ["a member: away"]
    await looks.leave(parts.leave)


async def test_what_is_no_trouble_ends_it_and_is_told_to_who_asks() -> None:
    parts = Parts(ZeroDivisionError())
    looks = steward(parts, every=SOON)
    looks.start()
    await parts.done.wait()
    await asyncio.sleep(0)
    with pytest.raises(ZeroDivisionError):
        looks.check()
    await looks.leave(parts.leave)
    assert parts.left == 1


async def test_it_leaves_once_though_who_waits_is_cancelled() -> None:
    parts = Parts()
    looks = steward(parts)
    looks.start()
    looks.check_open()
    first = asyncio.create_task(looks.leave(parts.leave))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(Closed, match="left its group"):
        looks.check()
    await looks.leave(parts.leave)
    await looks.leave(parts.leave)
    assert parts.left == 1
    assert parts.times == 0


async def test_what_is_found_at_once_or_after_news_is_returned_and_nothing_after_the_time() -> None:
    news = asyncio.Event()
    found = [["late"], [], ["early"]]

    async def find() -> Sequence[str]:
        result = found.pop() if found else []
        if not result:
            asyncio.get_running_loop().call_soon(news.set)
        return result

    assert await first_found(find, news, clock=Clock(), seconds=0.0) == ["early"]
    assert await first_found(find, news, clock=Clock(), seconds=LONG) == ["late"]
    assert await first_found(find, news, clock=Clock(), seconds=0.0) == []
