"""Commits of a member of a group on Kafka: which are sent, and who waits for which."""

import asyncio
from typing import Any

from tidings.clock import Clock
from tidings.kafka.keeper import Keeper
from tidings.kafka.ledger import Ledger


async def test_who_asks_while_a_commit_is_on_its_way_that_carries_all_sends_none() -> None:
    sent: list[Any] = []
    ledger = Ledger("order", 0, 0)
    ledger.version = 1
    keeper = Keeper("shop.reserve", Clock(), {0: ledger}, lambda places, then: sent.append((places, then)), 5.0)
    one = asyncio.create_task(keeper.keep([ledger]))
    await asyncio.sleep(0)
    other = asyncio.create_task(keeper.keep([ledger]))
    await asyncio.sleep(0)
    ((places, then),) = sent
    assert [place.topic for place in places] == ["order"]
    then(None)
    await asyncio.gather(one, other)
    assert len(sent) == 1
    assert ledger.kept == 1
