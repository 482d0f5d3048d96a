"""Apache Kafka itself: what a group gets, what it remembers, and what plain clients see."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Sequence

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient

from tidings.broker import Delivery, Lag, Record, Start
from tidings.brokers.kafka import KafkaLink
from tidings.clock import Clock
from tidings.dev import Kafka
from tidings.errors import BodyTooLarge, BrokerError, Closed
from tidings.kafka.line import KafkaLine

NUMBERS = itertools.count(1)
LEASE = 3.0
GROUP = "shop.reserve"


class Place:
    """A prefix of its own on the shared server."""

    def __init__(self, server: Kafka, options: str = "partitions=4") -> None:
        self.prefix = f"t{next(NUMBERS)}."
        self.url = f"{server.url}?prefix={self.prefix}&{options}"
        self.servers = server.url.removeprefix("kafka://")

    @contextlib.asynccontextmanager
    async def link(self, lease: float = LEASE) -> AsyncGenerator[KafkaLink]:
        link = KafkaLink(self.url, Clock(), lease=lease, keep=float("inf"))
        await link.open()
        try:
            yield link
        finally:
            await link.close()


@pytest.fixture
def place(kafka_server: Kafka) -> Place:
    return Place(kafka_server)


def records(count: int, *, keys: int = 7, prefix: str = "r", topic: str = "order") -> list[Record]:
    return [
        Record(topic, b"%d" % number, f"k{number % keys}", "order.created", f"{prefix}{number}", 1_767_225_600.5,
               {"source": "shop"})
        for number in range(count)
    ]  # fmt: skip


async def take(line: KafkaLine, count: int, *, settle: bool = True) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(30):
        while len(taken) < count:
            lent = await line.fetch(count - len(taken), 1.0)
            taken += lent
            if settle:
                await line.done(lent)
    return taken


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [each.record.id for each in deliveries]


async def test_what_was_published_comes_as_it_was(place: Place) -> None:
    values = ["", "ünï ☃", "a\r\nb\tc", "\x00\x01\x7f", " padded ", "%41", "x" * 5000]
    sent = [
        Record("order", bytes(range(256)), key, "order.created", f"r{number}", 1_767_225_600.123456,
               {"source": value or "s", "correlationid": value, "traceparent": value, "own": value})
        for number, (value, key) in enumerate(itertools.product(values, [None, "", "0", "ключ"]))
    ]  # fmt: skip
    async with place.link() as link:
        line = await link.join(["order"], GROUP)
        await link.publish(sent)
        got = await take(line, len(sent))
    assert {each.record.id: each.record for each in got} == {each.id: each for each in sent}


async def test_a_key_keeps_its_order_over_many_batches(place: Place) -> None:
    async with place.link() as link:
        line = await link.join(["order"], GROUP)
        for number in range(20):
            await link.publish(records(50, prefix=f"{number:02}-"))
        got = await take(line, 1000)
    for key in {each.record.key for each in got}:
        seen = [each.record.id for each in got if each.record.key == key]
        assert seen == sorted(seen, key=lambda id: (id[:2], int(id[3:])))


async def test_a_group_gets_all_from_its_declaration_on(place: Place) -> None:
    async with place.link() as link:
        await link.publish(records(10, prefix="before"))
        await link.declare("order", [GROUP])
        await link.publish(records(20))
        assert await link.lag("order", GROUP) == Lag(20, None)
    async with place.link() as link:
        await link.declare("order", [GROUP], Start.EARLIEST)
        got = await take(await link.join(["order"], GROUP), 20)
        assert sorted(ids(got)) == sorted(each.id for each in records(20))
        assert await link.lag("order", GROUP) == Lag(0, None)


async def test_what_is_done_above_a_gap_is_remembered(place: Place) -> None:
    async with place.link() as link:
        line = await link.join(["order"], GROUP)
        await link.publish(records(40, keys=1))
        held = await take(line, 40, settle=False)
        await line.done(held[::2])
        assert await link.lag("order", GROUP) == Lag(20, None)
        await line.close()
        again = await take(await link.join(["order"], GROUP), 20)
    assert ids(again) == ids(held[1::2])
    assert {each.attempt for each in again} == {1}


async def test_who_leaves_hands_over_without_counting(place: Place) -> None:
    async with place.link() as one, place.link() as other:
        first = await one.join(["order"], GROUP)
        await one.publish(records(30))
        held = await take(first, 30, settle=False)
        await first.close()
        await first.close()
        with pytest.raises(Closed):
            await first.fetch(1, 0.0)
        got = await take(await other.join(["order"], GROUP), 30)
    assert sorted(ids(got)) == sorted(ids(held))
    assert {each.attempt for each in got} == {1}


async def test_who_joins_waits_for_what_is_out(place: Place) -> None:
    async with place.link(lease=10.0) as one, place.link(lease=10.0) as other:
        first = await one.join(["order"], GROUP)
        await one.publish(records(40, keys=40))
        held = await take(first, 40, settle=False)
        second = await other.join(["order"], GROUP)
        assert await second.fetch(100, 1.5) == []
        await first.done(held)
        seen: dict[str, set[str]] = {"first": set(), "second": set()}
        published = 0
        async with asyncio.timeout(30):
            while not seen["second"] or sum(map(len, seen.values())) < published:
                if sum(map(len, seen.values())) == published:  # until the parts have been shared out
                    await one.publish(records(40, keys=40, prefix=f"s{published}-"))
                    published += 40
                for name, line in (("first", first), ("second", second)):
                    lent = await line.fetch(100, 0.1)
                    seen[name].update(ids(lent))
                    await line.done(lent)
        assert seen["second"]
        assert seen["first"].isdisjoint(seen["second"])
        assert await one.lag("order", GROUP) == Lag(0, None)


async def test_settling_twice_is_harmless(place: Place) -> None:
    async with place.link() as link:
        line = await link.join(["order"], GROUP)
        await link.publish(records(10))
        held = await take(line, 10, settle=False)
        await line.done(held[::-1])
        await line.done(held)
        assert await link.lag("order", GROUP) == Lag(0, None)


async def test_a_view_reads_all_and_takes_from_nobody(place: Place) -> None:
    async with place.link() as link:
        await link.declare("order", [GROUP])
        await link.publish(records(30))
        view = await link.join(["order"], None, Start.EARLIEST)
        later = await link.join(["order"], None)
        assert sorted(ids(await take(view, 30))) == sorted(each.id for each in records(30))
        await link.publish(records(5, prefix="s"))
        assert sorted(ids(await take(later, 5))) == [f"s{number}" for number in range(5)]
        assert await link.lag("order", GROUP) == Lag(35, None)


async def test_a_body_over_the_limit_is_refused_before_anything_is_sent(place: Place) -> None:
    async with place.link() as link:
        assert link.limit is not None
        line = await link.join(["order"], GROUP)
        with pytest.raises(BodyTooLarge, match="order is over Kafka's limit"):
            await link.publish([*records(1), Record("order", bytes(link.limit + 1), "k", "t", "large")])
        await link.publish([Record("order", bytes(link.limit), "k", "t", "fits", 0.0)])
        assert ids(await take(line, 1)) == ["fits"]


async def test_a_plain_client_reads_ours(place: Place) -> None:
    async with place.link() as link:
        await link.publish(records(1))
    consumer = confluent_kafka.Consumer({"bootstrap.servers": place.servers, "group.id": "plain"})
    try:
        partitions = [confluent_kafka.TopicPartition(f"{place.prefix}order", number, 0) for number in range(4)]
        consumer.assign(partitions)
        (message,) = consumer.consume(1, 20)
    finally:
        consumer.close()
    assert (message.key(), message.value(), message.timestamp()[1]) == (b"k0", b"0", 1_767_225_600_500)
    assert dict(message.headers() or ()) == {
        "ce_id": b"r0", "ce_type": b"order.created", "ce_source": b"shop", "ce_specversion": b"1.0",
        "ce_time": b"2026-01-01T00:00:00.500000Z", "content-type": b"application/json",
    }  # fmt: skip


async def test_foreign_messages_come_as_they_are(place: Place) -> None:
    async with place.link() as link:
        line = await link.join(["order"], GROUP)
        producer = confluent_kafka.Producer({"bootstrap.servers": place.servers})
        headers: list[tuple[str, str | bytes | None]] = [("x-own", "1"), ("raw", b"\xff"), ("empty", None)]
        producer.produce(f"{place.prefix}order", b"\xff", b"\xfe", 2, headers=headers, timestamp=1000)
        producer.flush(20)
        (got,) = await take(line, 1)
        assert got.record == Record(
            "order", b"\xff", "\\xfe", "", "order-2-0", 1.0, {"x-own": "1", "raw": "\\xff", "empty": ""}
        )


async def test_a_group_that_there_is_not_has_no_lag_and_cannot_be_moved(place: Place) -> None:
    async with place.link() as link:
        assert await link.lag("unknown", GROUP) == Lag(None, None)
        await link.declare("order", [])
        assert await link.lag("order", GROUP) == Lag(None, None)
        with pytest.raises(BrokerError, match="no such group"):
            await link.seek("order", GROUP, Start.EARLIEST)


async def test_a_slow_member_that_reads_no_more_goes_on_when_partitions_came_and_went(place: Place) -> None:
    async with place.link(lease=6.0) as one, place.link(lease=6.0) as other:
        first = await one.join(["order"], GROUP)
        for number in range(4):
            await one.publish(records(1000, keys=40, prefix=f"{number}-"))
        held = await take(first, 10, settle=False)
        async with asyncio.timeout(30):
            while not first._pump._paused:  # noqa: ASYNC110 - a thread does it
                await asyncio.sleep(0.05)
        second = await other.join(["order"], GROUP)
        asked = asyncio.create_task(second.fetch(10, 20.0))
        await asyncio.sleep(1.0)
        await first.done(held)
        seen = set(ids(held)) | set(ids(await asked))
        await second.done(await asked)
        await second.close()
        async with asyncio.timeout(40):
            while len(seen) < 4000:
                lent = await first.fetch(500, 1.0)
                seen.update(ids(lent))
                await first.done(lent)
        assert await one.lag("order", GROUP) == Lag(0, None)


async def come(line: KafkaLine, wanted: set[str]) -> None:
    """Until all of these have come and are done, whatever is said meanwhile."""
    async with asyncio.timeout(60):
        while wanted:
            with contextlib.suppress(BrokerError):
                lent = await line.fetch(100, 1.0)
                await line.done(lent)
                wanted -= set(ids(lent))


async def test_a_topic_that_somebody_deletes_is_made_again_as_it_was(place: Place) -> None:
    async with place.link() as link:
        await link.declare("order", ["shop.absent"])
        line, view = await link.join(["order"], GROUP), await link.join(["order"], None)
        await link.publish(records(60))
        await take(line, 60)
        await take(view, 60)
        name, was = f"{place.prefix}order", link._known["order"].id
        admin = AdminClient({"bootstrap.servers": place.servers})
        await asyncio.to_thread(admin.delete_topics([name])[name].result)
        async with asyncio.timeout(60):
            while link._known["order"].id == was:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        await link.publish(records(20, prefix="again"))
        again = {each.id for each in records(20, prefix="again")}
        await come(line, set(again))
        await come(view, set(again))
        assert await link.lag("order", "shop.absent") == Lag(20, None)
        assert await link.lag("order", GROUP) == Lag(0, None)
        assert len((await asyncio.to_thread(link._offsets.topic, name)).partitions) == 4


async def test_members_share_by_the_newer_protocol_too(kafka_server: Kafka) -> None:
    place = Place(kafka_server, "partitions=4&group.protocol=consumer")
    async with place.link() as one, place.link() as other:
        first = await one.join(["order"], GROUP)
        await one.publish(records(40, keys=40))
        held = await take(first, 40, settle=False)
        await first.done(held[::2])
        await first.close()
        second = await other.join(["order"], GROUP)
        got = await take(second, 20)
        assert sorted(ids(got)) == sorted(ids(held[1::2]))
        assert {each.attempt for each in got} == {1}
        assert await one.lag("order", GROUP) == Lag(0, None)
