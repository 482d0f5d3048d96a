"""What a link to RabbitMQ promises, on a real server."""

import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.brokers.links import GROUP, by_key, ids, records, until
from tests.lifetime import kept_open
from tests.servers.shared import require
from tidings.amqp.line import GroupLine
from tidings.amqp.naming import SLOTS, slot
from tidings.amqp.part import WINDOW
from tidings.broker import Delivery, Record, Start
from tidings.brokers.rabbitmq import RabbitLink
from tidings.clock import Clock
from tidings.dev import RabbitMQ
from tidings.errors import BodyTooLarge, BrokerError, Closed, Fenced, InvalidEvent, PublishFailed
from tidings.link import Line, Link

TOPIC = "order"
NUMBERS = itertools.count(1)
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def own(server: RabbitMQ, more: str = "") -> str:
    """A URL with a prefix that no other test has."""
    return f"{server.url}?prefix=own{next(NUMBERS)}{more}"


def opened(url: str, *, lease: float = 6.0) -> contextlib.AbstractAsyncContextManager[RabbitLink]:
    return kept_open(RabbitLink(url, Clock(), lease=lease))


@contextlib.contextmanager
def plain(server: RabbitMQ) -> Iterator[BlockingChannel]:
    """A channel of a plain client."""
    connection = pika.BlockingConnection(pika.URLParameters(server.url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


@pytest.fixture
async def link(rabbitmq_server: RabbitMQ) -> AsyncIterator[RabbitLink]:
    async with opened(own(rabbitmq_server)) as link:
        yield link


async def taken(line: Line, count: int, *, patience: float = 60.0) -> list[Delivery]:
    found: list[Delivery] = []
    async with asyncio.timeout(patience):
        while len(found) < count:
            try:
                found += await line.fetch(count - len(found), 1.0)
            except BrokerError:
                await asyncio.sleep(0.02)
    return found


async def arrive(line: Line, wanted: set[str]) -> None:
    """All of these come, some perhaps twice."""
    while wanted:
        wanted -= set(ids(await taken(line, 1)))


async def said(lines: asyncio.StreamReader, word: bytes, *, among: int) -> bool:
    """Whether one of the next `among` lines begins with the word."""
    for _ in range(among):
        if (await lines.readline()).startswith(word):
            return True
    return False


def in_order(wanted: Sequence[Record]) -> dict[str | None, list[str]]:
    return by_key([Delivery(each, 1, 0) for each in wanted])


def cut(link: RabbitLink) -> None:
    """The network fails; the process lives."""
    link.connection.wire().abort()
    link.voice.wire().abort()


async def back(link: RabbitLink) -> None:
    await until(lambda: link.connection.up and link.voice.up, 40.0)


async def test_it_is_a_link(link: RabbitLink) -> None:
    assert isinstance(link, Link)
    assert link.limit is not None
    assert isinstance(await link.join([TOPIC], GROUP), Line)


async def test_a_group_gets_all_in_the_order_of_each_key(link: RabbitLink) -> None:
    await link.declare(TOPIC, [GROUP])
    published = records(1000, keys=20)
    await link.publish(published)
    line = await link.join([TOPIC], GROUP)
    got: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(got) < 1000:
            lent = await line.fetch(100, 1.0)
            await line.done(lent)
            got += lent
    assert by_key(got) == in_order(published)
    assert {each.attempt for each in got} == {1}
    assert next(each for each in got if each.record.id == "id7").record == published[7]
    assert (await link.lag(TOPIC, GROUP)).waiting == 0


async def test_every_byte_key_header_and_size_arrives_as_it_was(link: RabbitLink) -> None:
    line = await link.join([TOPIC], GROUP)
    told = {"source": "x", "text": "".join(map(chr, range(1, 256))) + "\N{SNOWMAN}", "empty": "", "nul": "a\0b"}
    published = [
        Record(TOPIC, bytes(range(256)), None, "t", "1", 1.5, told),
        Record(TOPIC, b"", "", "t", "2", 2.000001, {"source": "x"}),
        Record(TOPIC, b"\xce" * 300_000, "\N{SNOWMAN}", "t", "i" * 300, 3.0, {"source": "x"}),
    ]
    await link.publish(published)
    got = {each.record.id: each.record for each in await taken(line, 3)}
    assert [got[each.id] for each in published] == published


async def test_what_cannot_be_carried_is_refused_before_anything_is_sent(link: RabbitLink) -> None:
    line = await link.join([TOPIC], GROUP)
    good = Record(TOPIC, b"", "k", "t", "good", 1.0, {})
    for bad in ({"n" * 250: "x"}, {"long": "x" * 200_000}):
        with pytest.raises(InvalidEvent, match="RabbitMQ cannot carry"):
            await link.publish([good, Record(TOPIC, b"", "k", "t", "bad", 1.0, bad)])
    assert link.limit is not None
    with pytest.raises(BodyTooLarge):
        await link.publish([good, Record(TOPIC, bytes(link.limit + 1), "k", "t", "bad", 1.0)])
    with pytest.raises(BrokerError, match="255 bytes"):
        await link.declare("t" * 300, [GROUP])
    await link.publish([msg := Record(TOPIC, b"last", "k", "t", "last", 1.0)])
    assert [each.record for each in await taken(line, 1)] == [msg]


async def test_parts_are_shared_and_handed_over(rabbitmq_server: RabbitMQ) -> None:
    url = own(rabbitmq_server)
    async with opened(url) as one, opened(url) as other:
        first = await one.join([TOPIC], GROUP)
        await one.publish(records(40, keys=40))
        held = await taken(first, 40)
        second = await other.join([TOPIC], GROUP)
        assert await second.fetch(100, 0.3) == []
        await first.done(held)
        await one.publish(records(400, keys=40, start=40))
        seen: dict[str, set[int]] = {}
        got = 0
        async with asyncio.timeout(60):
            while got < 400:
                for number, line in enumerate((first, second)):
                    lent = await line.fetch(100, 0.05)
                    await line.done(lent)
                    got += len(lent)
                    for each in lent:
                        seen.setdefault(str(each.record.key), set()).add(number)
        assert got == 400
        await first.close()
        await other.publish(records(4, start=440, keys=4))
        assert len(await taken(second, 4)) == 4


async def test_what_is_not_settled_in_time_goes_to_who_asked_for_it_and_its_holder_is_fenced(
    rabbitmq_server: RabbitMQ,
) -> None:
    url = own(rabbitmq_server)
    async with opened(url, lease=1.5) as one, opened(url, lease=1.5) as other:
        first = await one.join([TOPIC], GROUP)
        await one.publish(records(40, keys=40))
        held = await taken(first, 40)
        second = await other.join([TOPIC], GROUP)
        moved = await taken(second, 1)
        assert {each.attempt for each in moved} == {1}
        with pytest.raises(Fenced):
            await fetch_on(first)
        await first.done(held)
        again = await taken(first, 1)
        moved += await second.fetch(100, 0.5)
        assert not set(ids(again)) & set(ids(moved))


async def fetch_on(line: Line) -> None:
    async with asyncio.timeout(60):
        while True:
            await line.fetch(1, 1.0)


async def test_an_orderly_close_and_a_lost_connection_are_no_attempts(rabbitmq_server: RabbitMQ) -> None:
    async with opened(own(rabbitmq_server)) as link:
        line = await link.join([TOPIC], GROUP)
        published = records(60)
        await link.publish(published)
        for _ in range(3):
            got = await taken(line, 60)
            assert {each.attempt for each in got} == {1}
            await line.close()
            line = await link.join([TOPIC], GROUP)
        for _ in range(4):
            got = await taken(line, 60)
            assert {each.attempt for each in got} == {1}
            assert by_key(got) == in_order(published)
            cut(link)
            await back(link)
        got = await taken(line, 60)
        assert {each.attempt for each in got} == {1}
        await line.done(got)
        assert (await link.lag(TOPIC, GROUP)).waiting == 0


async def test_a_settling_over_a_lost_connection_is_told(rabbitmq_server: RabbitMQ) -> None:
    async with opened(own(rabbitmq_server)) as link:
        line = await link.join([TOPIC], GROUP)
        await link.publish(records(10))
        got = await taken(line, 10)
        cut(link)
        await asyncio.sleep(0)
        with pytest.raises(BrokerError):
            await line.done(got)
        await back(link)
        assert sorted(ids(await taken(line, 10))) == sorted(ids(got))


async def test_the_order_holds_over_deaths_with_some_acknowledged(rabbitmq_server: RabbitMQ) -> None:
    """RabbitMQ puts what comes back behind what came back before: only a window that stays the same hides that."""
    url = own(rabbitmq_server, "&parts=1")
    async with opened(url) as publisher:
        await publisher.declare(TOPIC, [GROUP])
        published = records(2 * WINDOW + 50, keys=7)
        await publisher.publish(published)
        rest = [each.id for each in published]
        for deaths in range(5):
            member = RabbitLink(url, Clock(), lease=6.0)
            await member.open()
            line = await member.join([TOPIC], GROUP)
            got = await taken(line, 5 if deaths < 2 else 1)  # after two deaths one at a time
            assert ids(got) == rest[: len(got)], f"after {deaths} deaths"
            settled = got[1:4:2] or got
            await line.done(settled)
            rest = [id for id in rest if id not in ids(settled)]
            await die(member)
        line = await publisher.join([TOPIC], GROUP)
        got = []
        async with asyncio.timeout(60):
            while len(got) < len(rest):
                lent = await line.fetch(50, 1.0)
                await line.done(lent)
                got += lent
        assert ids(got) == rest


async def die(link: RabbitLink) -> None:
    """As SIGKILL does: the connection is gone, and nothing was said."""
    for line in list(link.connection.users):
        steward = getattr(line, "_steward", None)
        if steward is not None:
            steward.stop()
    for connection in (link.connection, link.voice):
        wire = connection.wire()
        connection._opened = False
        wire.abort()
        await wire.ended.wait()


async def test_what_kills_its_process_is_counted_exactly_and_what_lay_beside_it_is_not(
    rabbitmq_server: RabbitMQ,
) -> None:
    url = own(rabbitmq_server, "&parts=1")
    async with opened(url) as link:
        await link.declare(TOPIC, [GROUP])
        published = records(30, keys=3)
        await link.publish(published)
        lent = [await run_until_dead(url, "id10") for _ in range(4)]
        assert [attempts["id10"] for attempts in lent] == [1, 2, 3, 4]
        line = await link.join([TOPIC], GROUP)
        (killer,) = await taken(line, 1)
        assert (killer.record.id, killer.attempt) == ("id10", 5)
        assert await line.fetch(10, 0.2) == [], "nothing is out beside what has killed twice"
        await line.done([killer])
        others = []
        async with asyncio.timeout(60):
            while len(others) < 19:
                got = await line.fetch(100, 1.0)
                await line.done(got)
                others += got
        assert ids(others) == [each.id for each in published[11:]]
        assert {each.attempt for each in others} <= {2, 3}
        await link.publish(records(5, start=30))
        assert {each.attempt for each in await taken(line, 5)} == {1}


async def run_until_dead(url: str, dies_of: str) -> dict[str, int]:
    """What a member that such a record kills was lent, with the attempts."""
    member = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.brokers.rabbit_member", url, "--dies-of", dies_of,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    async with asyncio.timeout(30):
        said, _ = await member.communicate()
    assert member.returncode == -9
    lines = [line.split() for line in said.decode().splitlines()]
    return {line[1]: int(line[2]) for line in lines if line[0] == "lent"}


async def test_members_that_wait_take_over_from_one_that_was_killed(rabbitmq_server: RabbitMQ) -> None:
    url = own(rabbitmq_server)
    async with opened(url) as link:
        await link.declare(TOPIC, [GROUP])
        await link.publish(records(40, keys=8))
        lent = await run_until_dead(url, "id20")
        line = await link.join([TOPIC], GROUP)
        again = await taken(line, 1)
        assert (await link.lag(TOPIC, GROUP)).waiting is not None
        assert lent["id20"] == 1
        found = {each.record.id: each.attempt for each in again}
        async with asyncio.timeout(60):
            while "id20" not in found:
                found |= {each.record.id: each.attempt for each in await line.fetch(100, 1.0)}
        assert found["id20"] == 2


async def test_a_member_that_stood_still_loses_its_parts_and_settles_nothing(rabbitmq_server: RabbitMQ) -> None:
    url = own(rabbitmq_server, "&parts=1")
    async with opened(url) as link:
        await link.declare(TOPIC, [GROUP])
        await link.publish(records(3, keys=1))
        member = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.brokers.rabbit_member", url, "--hold", "0.2", "--limit", "1",
            stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        try:
            assert member.stdout is not None
            assert await member.stdout.readline() == b"lent id0 1\n"
            member.send_signal(signal.SIGSTOP)
            lag = await link.lag(TOPIC, GROUP)
            assert lag.waiting in (None, 3), "what the silent member holds is not nothing"
            line = await link.join([TOPIC], GROUP)
            got = await taken(line, 3, patience=30.0)
            assert [(each.record.id, each.attempt) for each in got] == [("id0", 2), ("id1", 2), ("id2", 2)]
            member.send_signal(signal.SIGCONT)
            async with asyncio.timeout(60):
                # An ack has no answer: one may have been written before it sees that the connection is gone.
                assert await said(member.stdout, b"trouble", among=2)
            assert (await link.lag(TOPIC, GROUP)).waiting == 3
            await line.done(got)
            assert (await link.lag(TOPIC, GROUP)).waiting == 0
        finally:
            member.kill()
            await member.communicate()


async def test_a_deleted_queue_is_made_again_and_publishing_tells_what_it_held(rabbitmq_server: RabbitMQ) -> None:
    for _ in range(15):  # RabbitMQ 3.10 mistook a consumer of the old queue for one of the new in a tenth of them
        await queues_deleted(rabbitmq_server)


async def test_members_take_anew_what_somebody_else_has_made_again(rabbitmq_server: RabbitMQ) -> None:
    url = own(rabbitmq_server)
    async with opened(url) as one, opened(url) as other:
        line = await one.join([TOPIC], GROUP)
        assert isinstance(line, GroupLine)
        place, before = other._place(TOPIC, GROUP), set(line._parts.values())
        assert len(before) == place.parts
        other.forget(place)
        await other.make(place)
        await until(lambda: len(line._parts) == place.parts and before.isdisjoint(line._parts.values()))
        await other.publish(records(8, keys=8))
        await arrive(line, {f"id{n}" for n in range(8)})


async def queues_deleted(server: RabbitMQ) -> None:
    async with opened(own(server)) as link:
        line = await link.join([TOPIC], GROUP)
        place = link._place(TOPIC, GROUP)
        with plain(server) as channel:
            for part in range(place.parts):
                channel.queue_delete(place.queue(part))
        left = records(8, keys=8)
        async with asyncio.timeout(60):
            while left:
                try:
                    await link.publish(left)
                    left = []
                except PublishFailed as failed:
                    left = [each for each in left if each.id in failed.unsent]
        await arrive(line, {f"id{n}" for n in range(8)})


async def test_a_group_with_other_parts_is_refused_with_a_remedy(rabbitmq_server: RabbitMQ) -> None:
    url = own(rabbitmq_server)
    async with opened(url) as link:
        await link.declare(TOPIC, [GROUP])
    async with opened(f"{url}&parts=2") as link:
        with pytest.raises(BrokerError, match=r"4 parts.*\?parts="):
            await link.declare(TOPIC, [GROUP])


async def test_there_is_no_seek_and_what_is_closed_says_so(link: RabbitLink) -> None:
    line = await link.join([TOPIC], GROUP)
    with pytest.raises(BrokerError, match="REPLAY"):
        await link.seek(TOPIC, GROUP, Start.EARLIEST)
    await line.close()
    with pytest.raises(Closed):
        await line.fetch(1, 0.0)
    await link.close()
    with pytest.raises(Closed):
        await link.publish(records(1))


# -- plain clients


async def test_a_plain_client_publishes_what_we_read(rabbitmq_server: RabbitMQ, link: RabbitLink) -> None:
    line = await link.join([TOPIC], GROUP)
    exchange = link._place(TOPIC, GROUP).exchange
    ours = {"cloudEvents:specversion": "1.0", "cloudEvents:id": "e1", "cloudEvents:type": "order.created",
            "cloudEvents:source": "/till", "cloudEvents:partitionkey": "a"}  # fmt: skip
    with plain(rabbitmq_server) as channel:
        told = [
            pika.BasicProperties(headers=ours, content_type="application/json", delivery_mode=2),
            pika.BasicProperties(
                message_id="m2", type="till.closed", timestamp=1000, headers={"shop": 7, "open": True, "deep": {"a": 1}}
            ),
            pika.BasicProperties(),
            pika.BasicProperties(),
        ]
        channel.confirm_delivery()  # else a queue without a leader, just after a restart, drops it in silence
        for number, properties in enumerate(told):
            channel.basic_publish(exchange, str(slot("a")), f"body {number}".encode(), properties, mandatory=True)
    first, second, third, fourth = [each.record for each in await taken(line, 4)]
    assert first == Record(TOPIC, b"body 0", "a", "order.created", "e1", 0.0, {"source": "/till"})
    assert (second.id, second.type, second.time, second.value) == ("m2", "till.closed", 1000.0, b"body 1")
    assert (second.headers["shop"], second.headers["open"]) == ("7", "true")
    assert third.id
    assert fourth.id
    assert third.id != fourth.id
    assert third.type == ""


async def test_a_plain_client_reads_ours(rabbitmq_server: RabbitMQ, link: RabbitLink) -> None:
    await link.declare(TOPIC, [])
    with plain(rabbitmq_server) as channel:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, link._place(TOPIC, GROUP).exchange, "#")
        await link.publish([Record(TOPIC, b"{}", "a", "order.created", "e1", 1000.25, {"source": "/till"})])
        method, properties, body = channel.basic_get(queue, auto_ack=True)
    assert body == b"{}"
    assert method.routing_key == str(slot("a"))
    assert int(method.routing_key) < SLOTS
    assert (properties.content_type, properties.message_id, properties.delivery_mode) == ("application/json", "e1", 2)
    assert properties.timestamp == 1000
    assert properties.headers == {
        "cloudEvents:specversion": "1.0", "cloudEvents:id": "e1", "cloudEvents:type": "order.created",
        "cloudEvents:source": "/till", "cloudEvents:time": "1970-01-01T00:16:40.250000Z",
        "cloudEvents:partitionkey": "a",
    }  # fmt: skip


async def test_what_others_say_to_members_is_ignored(rabbitmq_server: RabbitMQ, link: RabbitLink) -> None:
    line = await link.join([TOPIC], GROUP)
    place = link._place(TOPIC, GROUP)
    with plain(rabbitmq_server) as channel:
        channel.basic_publish("", place.lock(0), b"\xff rubbish", PERSISTENT)
        channel.basic_publish("", place.book(0), b"\xff rubbish", PERSISTENT)
    await link.publish(records(20))
    await line.done(await taken(line, 20))
    await line.close()
    await link.publish(records(20, start=20))
    assert len(await taken(await link.join([TOPIC], GROUP), 20)) == 20


# -- bad input


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("guest:guest", "guest:secret"), "refuses the user 'guest' or the password"),
        (("guest:guest", "nobody:secret"), "refuses the user 'nobody' or the password"),
        (("/?", "/nowhere?"), "no virtual host 'nowhere'"),
        (("amqp://", "amqps://"), "TLS does not fit"),
    ],
)
async def test_a_connection_that_is_refused_says_what_to_do(
    rabbitmq_server: RabbitMQ, change: tuple[str, str], says: str
) -> None:
    link = RabbitLink(f"{rabbitmq_server.url}?parts=1".replace(*change), Clock())
    with pytest.raises(BrokerError, match=says) as refused:
        await link.open()
    assert "secret" not in f"{refused.value!r} {link._address!r}"


# -- outages, each on a server of its own


@pytest.mark.crash
@pytest.mark.timeout(240)  # a busy machine starts RabbitMQ in 20 seconds, and this twice
@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_nothing_acknowledged_is_lost_when_the_server_goes(how: str, tmp_path: Path) -> None:
    require(RabbitMQ)
    loop = asyncio.get_running_loop()
    server = RabbitMQ(tmp_path)
    await loop.run_in_executor(None, server.start)
    try:
        async with opened(f"{server.url}?parts=2") as link:
            line = await link.join([TOPIC], GROUP)
            await asyncio.sleep(2.0)  # a queue is on the disk about a second after it was declared
            acknowledged, seen = set[str](), dict[str, int]()
            publishing = asyncio.create_task(publish_on(link, 600, acknowledged))
            consuming = asyncio.create_task(consume_on(line, seen))
            await until(lambda: len(acknowledged) >= 200, 40.0)
            await loop.run_in_executor(None, server.kill9 if how == "kill" else server.stop)
            with pytest.raises(PublishFailed) as failed:
                await link.publish(records(1, start=9000))
            assert failed.value.unsent == ("id9000",)
            await loop.run_in_executor(None, server.start)
            async with asyncio.timeout(40):
                await publishing
            await until(lambda: acknowledged <= seen.keys(), 40.0)
            consuming.cancel()
            await asyncio.wait([consuming])
            assert max(seen.values()) == 1, "an outage is no attempt"
    finally:
        await loop.run_in_executor(None, server.close)


async def publish_on(link: RabbitLink, count: int, acknowledged: set[str]) -> None:
    for record in records(count):
        while record.id not in acknowledged:
            try:
                await link.publish([record])
                acknowledged.add(record.id)
            except PublishFailed:
                await asyncio.sleep(0.05)


async def consume_on(line: Line, seen: dict[str, int]) -> None:
    while True:
        try:
            lent = await line.fetch(50, 1.0)
            seen |= {each.record.id: max(each.attempt, seen.get(each.record.id, 0)) for each in lent}
            await line.done(lent)
        except BrokerError:
            await asyncio.sleep(0.05)


async def test_at_most_two_attempts_to_connect_a_second() -> None:
    waits: list[float] = []

    class Hasty(Clock):
        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            await asyncio.sleep(0)

    link = RabbitLink("amqp://127.0.0.1:1/", Hasty())
    with pytest.raises(BrokerError, match="cannot be reached"):
        await link.open()
    redial = asyncio.create_task(link.connection._redial())
    await until(lambda: len(waits) >= 50)
    redial.cancel()
    await asyncio.wait([redial])
    assert min(waits) >= 1.0, "for each of two connections"
    assert len(set(waits)) > 40, "jitter"
