"""What a link to Redis or Valkey promises, on a real server."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import redis.asyncio as plain

from tests.brokers.links import GROUP, by_key, ids, own, records, shared_and_handed_over, taken, until
from tests.brokers.redis_links import opened, silence
from tidings.broker import Record, Start
from tidings.brokers.redis import RedisLink
from tidings.clock import Clock
from tidings.config import Config
from tidings.connect import connect
from tidings.dev import Valkey
from tidings.errors import BodyTooLarge, BrokerError, Closed, ConfigError, Fenced, InvalidEvent, PublishFailed
from tidings.link import Line, Link
from tidings.linked import Linked
from tidings.redis.naming import Place, topic
from tidings.roster import part_of


@pytest.fixture
async def link(valkey_server: Valkey) -> AsyncIterator[RedisLink]:
    async with opened(valkey_server, own()) as link:
        yield link


@pytest.fixture
async def client(valkey_server: Valkey) -> AsyncIterator[plain.Redis]:
    async with plain.Redis(port=valkey_server.port) as client:
        yield client


def root(link: RedisLink, name: str = "order") -> str:
    return topic(link._address.prefix, name, 8).root


async def test_it_is_a_link(link: RedisLink) -> None:
    assert isinstance(link, Link)
    assert link.limit == 512 << 20
    assert isinstance(await link.join(["order"], GROUP), Line)
    assert isinstance(await link.join(["order"], None), Line)


def test_urls_name_it() -> None:
    for scheme in ("redis", "rediss", "valkey", "valkeys"):
        broker = connect(Config(broker=f"{scheme}://127.0.0.1:6379/0"), Clock()).broker
        assert isinstance(broker, Linked)
        assert isinstance(broker.link, RedisLink)


async def test_a_group_gets_all_in_the_order_of_each_key(link: RedisLink) -> None:
    await link.declare("order", [GROUP])
    published = records(2500)
    await link.publish(published)
    got = await taken(await link.join(["order"], GROUP), 2500)
    assert sorted(ids(got)) == sorted(each.id for each in published)
    assert by_key(got) == {key: [r.id for r in published if r.key == key] for key in ("k0", "k1", "k2", "k3", "k4")}
    assert {each.attempt for each in got} == {1}
    assert next(each for each in got if each.record.id == "id7").record == published[7]


async def test_what_is_done_is_never_lent_again_and_the_rest_comes_with_its_attempt(link: RedisLink) -> None:
    line = await link.join(["order"], GROUP)
    await link.publish(records(60))
    got = await taken(line, 60)
    for some in (got[30:40], got[5:15], got[5:15], got[10:20]):
        await line.done(some)
    assert (await link.lag("order", GROUP)).waiting == 35
    await line.close()
    with pytest.raises(Closed):
        await line.fetch(1, 0)
    line = await link.join(["order"], GROUP)
    again = await taken(line, 35)
    assert sorted(ids(again)) == sorted(ids([*got[:5], *got[20:30], *got[40:]]))
    assert {each.attempt for each in again} == {1}
    await line.done(again)
    assert (await link.lag("order", GROUP)).waiting == 0


async def test_nothing_is_left_of_what_was_done_out_of_order(link: RedisLink, client: plain.Redis) -> None:
    line = await link.join(["order"], GROUP)
    await link.publish(records(100))
    got = await taken(line, 100)
    await line.done(got[50:])
    await line.done(got[:50])
    assert [key async for key in client.scan_iter(f"{root(link)}:done:*")] == []


async def test_what_a_dead_member_had_is_found_whole_in_small_batches(valkey_server: Valkey) -> None:
    prefix = own()
    async with opened(valkey_server, prefix, lease=1.0) as one, opened(valkey_server, prefix, lease=1.0) as other:
        dead = await one.join(["order"], GROUP)
        await one.publish(records(500, keys=50))
        had = await taken(dead, 500)
        await dead.done(had[::5])
        silence(one, dead)
        await other.publish(records(100, keys=50, start=500))
        heir = await other.join(["order"], GROUP)
        found = []
        async with asyncio.timeout(30):
            while len(found) < 500:
                some = await heir.fetch(10, 1.0)
                await heir.done(some)
                found += some
        left = {each.record.id for each in had} - set(ids(had[::5]))
        assert {each.record.id for each in found if each.attempt == 2} == left
        assert {each.record.id for each in found if each.attempt == 1} == {f"id{n}" for n in range(500, 600)}
        for key, its in by_key(found).items():
            assert its == sorted(its, key=lambda id: int(id[2:])), key


async def test_who_was_thought_dead_is_fenced_whatever_it_tries(valkey_server: Valkey) -> None:
    prefix = own()
    async with opened(valkey_server, prefix, lease=0.5) as one, opened(valkey_server, prefix, lease=0.5) as other:
        stopped = await one.join(["order"], GROUP)
        await one.publish(records(40))
        held = await taken(stopped, 20)
        silence(one, stopped)
        heir = await other.join(["order"], GROUP)
        got = await taken(heir, 40)
        with pytest.raises(Fenced):
            await stopped.done(held)
        with pytest.raises(Fenced):
            await stopped.fetch(10, 1.0)
        assert (await other.lag("order", GROUP)).waiting == 40
        await heir.done(got)
        assert (await other.lag("order", GROUP)).waiting == 0


async def test_parts_are_shared_and_handed_over(valkey_server: Valkey) -> None:
    prefix = own()
    async with opened(valkey_server, prefix) as one, opened(valkey_server, prefix) as other:
        await shared_and_handed_over(one, other)


async def test_a_part_that_has_to_go_is_lent_no_more_and_goes_after_the_lease(valkey_server: Valkey) -> None:
    prefix = own()
    async with opened(valkey_server, prefix, lease=1.0) as one, opened(valkey_server, prefix, lease=1.0) as other:
        first = await one.join(["order"], GROUP)
        await one.publish(records(40, keys=40))
        await taken(first, 40)
        second = await other.join(["order"], GROUP)
        got = await taken(second, 1)  # what the first has not settled within the lease
        assert got[0].attempt == 1
        with pytest.raises(Fenced):
            await taken(first, 41)


async def test_an_id_is_kept_once_also_where_the_window_turns(valkey_server: Valkey) -> None:
    async with opened(valkey_server, own(), "&window=2") as link:
        view = await link.join(["order"], None, Start.EARLIEST)
        await link.publish([*records(1), *records(1)])
        await asyncio.sleep(1.2)
        await link.publish(records(2))
        await asyncio.sleep(1.2)
        await link.publish(records(3, start=1))
        assert ids(await taken(view, 4))[1:] == ["id1", "id2", "id3"]
        assert await view.fetch(10, 0.1) == []


async def test_a_group_is_moved_and_its_member_is_fenced(link: RedisLink) -> None:
    line = await link.join(["order"], GROUP)
    await link.publish(records(10))
    held = await taken(line, 10)
    await line.done(held[:5])
    await link.seek("order", GROUP, Start.EARLIEST)
    with pytest.raises(Fenced):
        await line.done(held[5:])
    with pytest.raises(Fenced):
        await taken(line, 1)
    assert len(await taken(line, 10)) == 10
    with pytest.raises(BrokerError, match=r"no group shop\.none"):
        await link.seek("order", "shop.none", Start.EARLIEST)


async def test_a_time_is_found_among_many(link: RedisLink) -> None:
    each = [Record("order", b"", f"k{n % 7}", "t", f"id{n}", 1000.0 + n // 3) for n in range(3000)]
    for first in range(0, 3000, 300):
        await link.publish(each[first : first + 300])
    await link.declare("order", [GROUP], 1900.0)
    assert (await link.lag("order", GROUP)).waiting == 300
    got = await taken(await link.join(["order"], GROUP), 300)
    assert {each.record.id for each in got} == {f"id{n}" for n in range(2700, 3000)}


async def test_a_view_sees_all_in_the_order_of_the_server(link: RedisLink) -> None:
    await link.publish(records(5))
    late = await link.join(["order"], None)
    early = await link.join(["order"], None, Start.EARLIEST)
    await link.publish(records(5, start=5))
    assert sorted(ids(await taken(early, 10))) == [f"id{n}" for n in range(10)]
    assert sorted(ids(await taken(late, 5))) == [f"id{n}" for n in range(5, 10)]


async def test_topics_that_were_made_with_other_parts_keep_them(valkey_server: Valkey) -> None:
    prefix = own()
    async with opened(valkey_server, prefix, "&parts=3") as one, opened(valkey_server, prefix) as other:
        line = await one.join(["order"], GROUP)
        await other.publish(records(50, keys=50))
        assert len(await taken(line, 50)) == 50


# -- requests that are cancelled (redis-py#2624, #2665): nobody gets the answer of another


async def test_no_answer_goes_astray_when_whoever_asks_is_cancelled(link: RedisLink) -> None:
    wire = link._connection.wire()
    wrong: list[tuple[int, object]] = []

    async def ask(number: int) -> None:
        answer = await wire.ask("ECHO", f"{number}")
        if answer != b"%d" % number:
            wrong.append((number, answer))

    for turn in range(50):
        tasks = [asyncio.create_task(ask(turn * 200 + n)) for n in range(200)]
        for task in tasks[turn % 3 :: 3]:
            asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait(tasks)
    assert wrong == []
    assert wire.alive


# -- trimming


async def test_trimming_takes_what_all_have_done_and_never_the_unread(link: RedisLink, client: plain.Redis) -> None:
    await link.declare("order", ["shop.slow"])
    line = await link.join(["order"], GROUP)
    await link.publish(records(1000, keys=1))
    await line.done(await taken(line, 1000))
    assert await link.trim("order", 0.0) == 0
    stream = f"{root(link)}:{part_of('k0', '', 8)}"
    assert await client.xlen(stream) == 1000
    slow = await link.join(["order"], "shop.slow")
    await slow.done((await taken(slow, 1000))[:500])
    await asyncio.sleep(0.01)
    assert 300 <= await link.trim("order", 0.0) <= 500
    assert (await link.lag("order", "shop.slow")).waiting == 500
    await slow.close()
    assert len(await taken(await link.join(["order"], "shop.slow"), 500)) == 500


# -- what is deleted under our feet


async def calls(client: plain.Redis) -> int:
    told = await client.info("commandstats")
    return sum(each["calls"] for name, each in told.items() if name in ("cmdstat_xread", "cmdstat_evalsha"))


@pytest.mark.parametrize("how", ["flush", "group", "streams"])
async def test_what_is_deleted_is_noticed_and_said_and_work_goes_on(
    valkey_server: Valkey, how: str, caplog: pytest.LogCaptureFixture, client: plain.Redis
) -> None:
    async with opened(valkey_server, own(), lease=1.0) as link:
        line = await link.join(["order"], GROUP)
        await link.publish(records(20))
        held = await taken(line, 20)
        await line.done(held[:10])
        place = Place(topic(link._address.prefix, "order", 8), GROUP)
        if how == "flush":
            keys = [key async for key in client.scan_iter(f"{link._address.prefix}:*")]
            await client.delete(*keys)
        elif how == "group":
            await client.delete(place.state)
        else:
            await client.delete(*place.topic.streams)
        await link.publish(records(20, start=20))
        found: list[str] = []
        async with asyncio.timeout(60):
            while not set(found) >= {f"id{n}" for n in range(20, 40)}:
                try:
                    lent = await line.fetch(50, 0.5)
                    await line.done(lent)
                    found += ids(lent)
                except Fenced:
                    continue
        assert not set(found) & set(ids(held[:10]))
        if how != "streams":
            assert f"the group {GROUP} on topic order was deleted" in caplog.text
        before = await calls(client)
        assert await line.fetch(50, 2.0) == []
        assert await calls(client) - before < 16


async def test_a_stream_that_begins_anew_with_lower_ids_is_read_from_its_start(
    valkey_server: Valkey, client: plain.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(valkey_server, own(), lease=1.0) as link:
        line = await link.join(["order"], GROUP)
        await link.publish(records(50, keys=1))
        await line.done(await taken(line, 50))
        stream = f"{root(link)}:{part_of('k0', '', 8)}"
        await client.delete(stream)
        await client.xadd(stream, {"ce_id": "low", "data": "x"}, id="5-1")
        assert ids(await taken(line, 1)) == ["low"]
        assert "1 parts of topic order end on the Redis server before what was read of them" in caplog.text


async def test_scripts_that_are_flushed_are_loaded_again(link: RedisLink, client: plain.Redis) -> None:
    line = await link.join(["order"], GROUP)
    await client.script_flush()
    await link.publish(records(3))
    await line.done(await taken(line, 3))


# -- plain clients


async def test_a_plain_client_reads_ours(link: RedisLink, client: plain.Redis) -> None:
    sent = Record(
        "order", bytes(range(256)), "Grüße", "order.created", "id1", 1e9, {"source": "shop", "traceparent": "x"}
    )
    await link.publish([sent])
    ((_, entries),) = await client.xread({f"{root(link)}:{part_of('Grüße', 'id1', 8)}": "0"})
    assert entries[0][1] == {
        b"ce_specversion": b"1.0", b"ce_id": b"id1", b"ce_source": b"shop", b"ce_type": b"order.created",
        b"ce_time": b"2001-09-09T01:46:40.000000Z", b"ce_datacontenttype": b"application/json",
        b"ce_partitionkey": "Grüße".encode(), b"ce_traceparent": b"x", b"data": bytes(range(256)),
    }  # fmt: skip
    assert await client.hget(root(link), "parts") == b"8"


async def test_a_plain_client_writes_what_we_read(link: RedisLink, client: plain.Redis) -> None:
    line = await link.join(["order"], GROUP)
    stream = f"{root(link)}:3"
    await client.xadd(stream, {"data": b'{"a": 1}', "ce_type": "order.created", "ce_id": "x1", "ce_partitionkey": "k"})
    await client.xadd(stream, {"data": b"\xff\x00", "shop": "north"})
    place = await client.xadd(stream, {"order": "o1", "total": "3"})
    event = {"specversion": "1.0", "id": "s1", "source": "/s", "type": "order.paid", "data": {"b": 2}}
    structured = {"ce_datacontenttype": "application/cloudevents+json", "data": msgspec.json.encode(event)}
    await client.xadd(stream, structured)
    one, two, three, four = [each.record for each in await taken(line, 4)]
    assert (one.id, one.type, one.key, one.value) == ("x1", "order.created", "k", b'{"a": 1}')
    assert (two.type, two.value, two.headers) == ("", b"\xff\x00", {"shop": "north"})
    assert three.id == f"{stream}:{place.decode()}"
    assert msgspec.json.decode(three.value) == {"order": "o1", "total": "3"}
    assert (four.id, four.type, four.value) == ("s1", "order.paid", b'{"b":2}')


# -- limits and refusals


async def test_a_body_over_the_limit_is_refused_before_anything_is_sent(link: RedisLink, client: plain.Redis) -> None:
    line = await link.join(["order"], GROUP)
    link._publisher.limit = 1000
    small, fits = records(2)
    with pytest.raises(BodyTooLarge, match="proto-max-bulk-len"):
        await link.publish([small, Record("order", bytes(1001), "k", "t", "large")])
    with pytest.raises(InvalidEvent, match="3000 headers"):
        await link.publish([Record("order", b"", "k", "t", "many", 0.0, {f"h{n}": "" for n in range(3000)})])
    with pytest.raises(InvalidEvent, match="no text"):
        await link.publish([Record("order", b"", "k", "t", "many", 0.0, {"\ud800": ""})])
    await link.publish([Record("order", bytes(1000), "k", "t", "largest"), fits])
    assert sorted(ids(await taken(line, 2))) == ["id1", "largest"]


async def test_full_memory_fails_the_publish_and_nothing_is_evicted(valkey_server: Valkey, client: plain.Redis) -> None:
    async with opened(valkey_server, own()) as link:
        line = await link.join(["order"], GROUP)
        await link.publish(records(5))
        await client.config_set("maxmemory", 1)
        try:
            with pytest.raises(PublishFailed, match="memory is full") as caught:
                await link.publish(records(5, start=5))
        finally:
            await client.config_set("maxmemory", 0)
        assert caught.value.unsent == ("id5", "id6", "id7", "id8", "id9")
        await link.publish(records(5, start=5))
        assert len(await taken(line, 10)) == 10


async def test_a_key_that_is_something_else_spoils_only_its_own_part(link: RedisLink, client: plain.Redis) -> None:
    await client.set(f"{root(link)}:{part_of('k0', '', 8)}", "mine")
    with pytest.raises(PublishFailed, match=r"\?prefix=") as caught:
        await link.publish(records(10, keys=2))
    assert caught.value.unsent == ("id0", "id2", "id4", "id6", "id8")


async def test_replicas_that_are_not_there_fail_the_publish(valkey_server: Valkey) -> None:
    async with opened(valkey_server, own(), "&replicas=1") as link:
        with pytest.raises(PublishFailed, match="0 of the 1 replicas"):
            await link.publish(records(1))


async def test_few_rights_are_enough(valkey_server: Valkey, client: plain.Redis) -> None:
    prefix = own()
    rights = ["+hello", "+select", "+ping", "+time", "+wait"]
    await client.acl_setuser("app", enabled=True, passwords=["+pass"], keys=[f"{prefix}:*"], commands=rights,
                             categories=["+@read", "+@write", "+@scripting"])  # fmt: skip
    link = RedisLink(valkey_server.url.replace("redis://", "redis://app:pass@") + f"?prefix={prefix}", Clock())
    await link.open()
    try:
        line = await link.join(["order"], GROUP, 5.0)
        view = await link.join(["order"], None)
        await link.publish(records(5))
        await line.done(await taken(line, 5))
        assert len(await taken(view, 5)) == 5
        assert (await link.lag("order", GROUP)).waiting == 0
        await link.seek("order", GROUP, Start.EARLIEST)
        assert await link.trim("order", 0.0) == 0
        await link._connection.wire().ask("PING")
        assert link.limit == 512 << 20
    finally:
        await link.close()


async def open_and_publish(link: RedisLink) -> None:
    await link.open()
    await link.publish(records(1))


async def test_a_wrong_password_is_said_and_not_shown(valkey_server: Valkey, client: plain.Redis) -> None:
    await client.acl_setuser("reader", enabled=True, passwords=["+secret"], keys=["*"], categories=["+@read"],
                             commands=["+hello", "+select", "+script|load", "+config|get"])  # fmt: skip
    address = valkey_server.url.replace("redis://", "redis://reader:{}@")
    for password in ("wr0ng", "secret"):
        link = RedisLink(address.format(password), Clock())
        assert password not in repr(link._address)
        try:
            with pytest.raises(BrokerError, match="password" if password == "wr0ng" else "lacks a right") as caught:
                await open_and_publish(link)
        finally:
            await link.close()
        assert password not in str(caught.value)


async def test_a_server_without_tls_or_none_at_all_is_said(valkey_server: Valkey) -> None:
    with pytest.raises(BrokerError, match="TLS"):
        await RedisLink(valkey_server.url.replace("redis://", "rediss://"), Clock()).open()
    with pytest.raises(BrokerError, match="cannot be reached"):
        await RedisLink("redis://127.0.0.1:1", Clock()).open()


@pytest.mark.parametrize(
    "url", ["redis://", "redis://h/x", "redis://h:x", "redis://h?parts=0", "redis://h?what=1", "redis://h?ca=/none"]
)
def test_urls_that_do_not_fit_are_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        RedisLink(url, Clock())


async def test_after_close_all_say_so(valkey_server: Valkey) -> None:
    async with opened(valkey_server, own()) as link:
        line = await link.join(["order"], GROUP)
        waiting = asyncio.create_task(line.fetch(1, 60.0))
        await until(lambda: line._ears.listening)  # type: ignore[attr-defined]
    with pytest.raises(Closed):
        await waiting
    with pytest.raises(Closed):
        await link.publish(records(1))
    with pytest.raises(Closed):
        await link.declare("order", [])
    with pytest.raises(Closed):
        await link.lag("order", GROUP)
