"""What a link to NATS JetStream promises, on a real server."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.brokers.links import GROUP, by_key, ids, own, records, shared_and_handed_over, taken
from tests.lifetime import kept_open
from tidings.broker import Lag, Record, Start
from tidings.brokers.nats import NatsLink
from tidings.clock import Clock
from tidings.dev import Nats
from tidings.errors import BodyTooLarge, BrokerError, Closed, Fenced
from tidings.link import Line, Link


@pytest.fixture
async def link(nats_server: Nats) -> AsyncIterator[NatsLink]:
    async with opened(nats_server, own()) as link:
        yield link


def opened(
    server: Nats, prefix: str, more: str = "", *, lease: float = 3.0
) -> contextlib.AbstractAsyncContextManager[NatsLink]:
    return kept_open(NatsLink(f"{server.url}?prefix={prefix}{more}", Clock(), lease=lease))


async def test_it_is_a_link(link: NatsLink) -> None:
    assert isinstance(link, Link)
    assert link.limit is not None
    assert isinstance(await link.join(["order"], GROUP), Line)


async def test_a_group_gets_all_in_the_order_of_each_key(link: NatsLink) -> None:
    await link.declare("order", [GROUP])
    published = records(500)
    await link.publish(published)
    line = await link.join(["order"], GROUP)
    got = await taken(line, 500)
    assert sorted(ids(got)) == sorted(each.id for each in published)
    assert by_key(got) == {key: [r.id for r in published if r.key == key] for key in ("k0", "k1", "k2", "k3", "k4")}
    assert {each.attempt for each in got} == {1}
    assert next(each for each in got if each.record.id == "id7").record == published[7]


async def test_what_is_done_is_never_lent_again_and_what_is_given_back_comes_with_its_attempt(link: NatsLink) -> None:
    line = await link.join(["order"], GROUP)
    await link.publish(records(20))
    got = await taken(line, 20)
    await line.done(got[5:15])
    await line.done(got[5:15])
    await line.close()
    with pytest.raises(Closed):
        await line.fetch(1, 0)
    again = await taken(await link.join(["order"], GROUP), 10)
    assert sorted(ids(again)) == sorted(ids([*got[:5], *got[15:]]))
    assert {each.attempt for each in again} == {1}


async def test_an_id_is_kept_once(link: NatsLink) -> None:
    line = await link.join(["order"], GROUP)
    await link.publish(records(3))
    await link.publish(records(4))
    assert sorted(ids(await taken(line, 4))) == ["id0", "id1", "id2", "id3"]
    assert await line.fetch(10, 0.2) == []


async def test_parts_are_shared_and_handed_over(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix) as one, opened(nats_server, prefix) as other:
        await shared_and_handed_over(one, other)


async def test_lag_counts_what_is_not_done(link: NatsLink) -> None:
    assert (await link.lag("order", GROUP)).waiting is None
    line = await link.join(["order"], GROUP)
    assert await link.lag("order", GROUP) == Lag(0, 0.0)
    await link.publish(records(30))
    got = await taken(line, 10)
    await line.done(got[:4])
    lag = await link.lag("order", GROUP)
    assert lag.waiting == 26
    assert lag.oldest == pytest.approx(Clock().now() - 1e9, abs=30.0)


async def test_a_group_is_moved_and_its_member_is_fenced(link: NatsLink) -> None:
    line = await link.join(["order"], GROUP)
    await link.publish(records(10))
    await line.done(await taken(line, 10))
    await link.seek("order", GROUP, Start.EARLIEST)
    with pytest.raises(Fenced):
        await taken(line, 1)
    assert len(await taken(line, 10)) == 10
    with pytest.raises(BrokerError, match=r"no group shop\.none"):
        await link.seek("order", "shop.none", Start.EARLIEST)


async def test_a_view_sees_all_and_is_no_member(link: NatsLink) -> None:
    await link.publish(records(5))
    late = await link.join(["order"], None)
    early = await link.join(["order"], None, Start.EARLIEST)
    await link.publish(records(5, start=5))
    assert ids(await taken(early, 10)) == [f"id{n}" for n in range(10)]
    assert ids(await taken(late, 5)) == [f"id{n}" for n in range(5, 10)]


async def test_a_body_over_the_limit_is_refused_before_anything_is_sent(link: NatsLink) -> None:
    assert link.limit is not None
    line = await link.join(["order"], GROUP)
    small, fits = records(2)
    large = Record("order", bytes(link.limit + 1), "k", "t", "large")
    with pytest.raises(BodyTooLarge):
        await link.publish([small, large])
    await link.publish([Record("order", bytes(link.limit), "k", "t", "largest"), fits])
    assert sorted(ids(await taken(line, 2))) == ["id1", "largest"]
