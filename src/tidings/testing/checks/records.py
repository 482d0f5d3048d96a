"""What is published arrives as it was, once, in order."""

from __future__ import annotations

import asyncio

from tidings.broker import Broker, Feature, Record, Start
from tidings.errors import BodyTooLarge, InvalidEvent
from tidings.testing.checks.server import (
    TOPIC,
    Server,
    check,
    expect,
    ids,
    numbered,
    raises_closed,
    record,
    take,
)

UNICODE = "Grüße, 世界 \N{GRINNING FACE} \N{RIGHT-TO-LEFT OVERRIDE} \x00 \x7f ' \" \\ \r\n\t"


async def _there_and_back(broker: Broker, published: list[Record]) -> list[Record]:
    view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
    await broker.publish(published)
    received = {delivery.record.id: delivery.record for delivery in await take(view, len(published))}
    return [received[one.id] for one in published]


@check()
async def bodies_arrive_as_they_were(server: Server) -> None:
    """A body is bytes: none, every one of the 256, invalid UTF-8, up to and at the size that the broker must take."""
    bodies = [b"", b"\x00", bytes(range(256)) * 3, b"\xff\xfe", b"null", b"0", b"false", b'""']
    bodies += [b"x" * (server.largest - 1), b"y" * server.largest]
    async with server.connect() as broker:
        published = [Record(TOPIC, body, None, "t", f"r{index}") for index, body in enumerate(bodies)]
        for sent, received in zip(published, await _there_and_back(broker, published), strict=True):
            expect(received.value, sent.value, "the body")


@check()
async def keys_arrive_as_they_were(server: Server) -> None:
    """No key is not the empty key, and the key "0" is neither."""
    keys = [None, "", "0", "a", " ", UNICODE, "k" * 1000]
    async with server.connect() as broker:
        published = [Record(TOPIC, b"", key, "t", f"r{index}") for index, key in enumerate(keys)]
        expect([one.key for one in await _there_and_back(broker, published)], keys, "the keys")


@check()
async def headers_arrive_as_they_were(server: Server) -> None:
    """Headers are text under text: none, empty, "0", any characters, the first 256 among them, many, 64 kB of them."""
    headers: list[dict[str, str]] = [
        {},
        {"empty": "", "zero": "0", "false": "false"},
        {"unicode": UNICODE, "latin": "".join(map(chr, range(256)))},
        {f"h{index}": str(index) for index in range(200)},
        {"long": "x" * 65536},
    ]
    async with server.connect() as broker:
        published = [Record(TOPIC, b"", None, "t", f"r{index}", 0.0, each) for index, each in enumerate(headers)]
        expect([dict(one.headers) for one in await _there_and_back(broker, published)], headers, "the headers")


@check()
async def headers_are_read_when_they_are_published(server: Server) -> None:
    """A mapping that is changed afterwards does not reach back; a change before the next publish counts."""
    headers = {"turn": "1"}
    async with server.connect() as broker:
        view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
        await broker.publish([Record(TOPIC, b"", None, "t", "r1", 0.0, headers)])
        headers["turn"] = "2"
        await broker.publish([Record(TOPIC, b"", None, "t", "r2", 0.0, headers)])
        turns = [delivery.record.headers["turn"] for delivery in await take(view, 2)]
        expect(turns, ["1", "2"], "the headers")


@check()
async def attributes_arrive_as_they_were(server: Server) -> None:
    """Topic, type, id and time (to the millisecond) arrive; `due` does not matter any more."""
    async with server.connect() as broker:
        sent = Record(TOPIC, b"", None, "order.created", "id with spaces / and ü", 1_767_225_600.123)
        (received,) = await _there_and_back(broker, [sent])
        expect((received.topic, received.type, received.id), (sent.topic, sent.type, sent.id), "the attributes")
        expect(round(received.time, 3), round(sent.time, 3), "the time")


@check(Feature.ORDERED)
async def many_at_once_arrive_in_order(server: Server) -> None:
    """One publish of a thousand records arrives whole, each key in order."""
    keys = [f"k{index}" for index in range(7)]
    published = numbered(1000, keys=keys)
    async with server.connect() as broker:
        view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
        await broker.publish(published)
        received = await take(view, 1000)
        for key in keys:
            mine = [delivery for delivery in received if delivery.record.key == key]
            expect(ids(mine), [one.id for one in published if one.key == key], f"the order of {key}")


@check(Feature.ORDERED)
async def publishers_do_not_disturb_each_other(server: Server) -> None:
    """What many tasks publish at once through two connections arrives whole, each task's key in order."""
    async with server.connect() as one, server.connect() as other:
        view = await one.subscribe([TOPIC], None, Start.EARLIEST)

        async def publish(number: int) -> None:
            broker = one if number % 2 else other
            for each in numbered(10, keys=[f"k{number}"], prefix=f"p{number:02}-"):
                await broker.publish([each])

        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(publish(number))
        received = await take(view, 120)
        for number in range(12):
            mine = [delivery for delivery in received if delivery.record.key == f"k{number}"]
            expect(ids(mine), ids(numbered(10, prefix=f"p{number:02}-")), "the order of a key")


@check(Feature.UNIQUE)
async def an_id_is_kept_once(server: Server) -> None:
    """Publishing an id to a topic again, in one call, later or elsewhere, changes nothing; another topic is another."""
    async with server.connect() as one, server.connect() as other:
        view = await one.subscribe([TOPIC, "elsewhere"], None, Start.EARLIEST)
        await one.publish([record("r1"), record("r1")])
        await one.publish([Record(TOPIC, b"changed", "key", "t", "r1"), record("r2")])
        await other.publish([record("r2"), record("r3"), record("r1", topic="elsewhere")])
        received = await take(view, 4)
        expect(sorted(ids(received)), ["r1", "r1", "r2", "r3"], "the records")
        first = next(each.record for each in received if each.record.id == "r1" and each.record.topic == TOPIC)
        expect(first.value, b"r1", "the body of the first r1")


@check()
async def publishing_nothing_is_nothing(server: Server) -> None:
    """An empty publish returns and leaves no trace."""
    async with server.connect() as broker:
        view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
        await broker.publish([])
        await broker.publish([record("r1")])
        expect(ids(await take(view, 1)), ["r1"], "what was published")


@check()
async def what_is_too_large_is_refused_alone(server: Server) -> None:
    """A body over the broker's limit is refused with BodyTooLarge; what is published beside it is kept."""
    if server.too_large is None:
        return
    async with server.connect() as broker:
        view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
        large = Record(TOPIC, bytes(server.too_large), None, "t", "large")
        results = await asyncio.gather(
            broker.publish([record("r1")]),
            broker.publish([large]),
            broker.publish([record("r2")]),
            return_exceptions=True,
        )
        expect([isinstance(result, BodyTooLarge) for result in results], [False, True, False], "which were refused")
        expect(sorted(ids(await take(view, 2))), ["r1", "r2"], "what was kept")


@check()
async def attributes_that_are_no_text_are_refused_alone(server: Server) -> None:
    """A lone surrogate in a key, an id, a type or a header is InvalidEvent; what is published beside it is kept."""
    bad = [
        Record(TOPIC, b"", "\ud800", "t", "key"),
        Record(TOPIC, b"", None, "t", "\ud800"),
        Record(TOPIC, b"", None, "\ud800", "type"),
        Record(TOPIC, b"", None, "t", "header", 0.0, {"header": "\ud800"}),
    ]
    async with server.connect() as broker:
        view = await broker.subscribe([TOPIC], None, Start.EARLIEST)
        publishing = (broker.publish([each]) for each in [record("r1"), *bad, record("r2")])
        results = await asyncio.gather(*publishing, return_exceptions=True)
        expect([type(result) for result in results[1:-1]], [InvalidEvent] * len(bad), "how they were refused")
        expect(sorted(ids(await take(view, 2))), ["r1", "r2"], "what was kept")


@check()
async def a_closed_connection_says_so(server: Server) -> None:
    """After close every method raises Closed; closing twice is harmless."""
    async with server.connect() as broker:
        await broker.publish([record("r1")])
        await broker.close()
        await broker.close()
        await raises_closed(broker.publish([record("r2")]), "publish after close")
        await raises_closed(broker.subscribe([TOPIC], "g"), "subscribe after close")
        await raises_closed(broker.declare("t", ["g"]), "declare after close")
        await raises_closed(broker.lag(TOPIC, "g"), "lag after close")
        await raises_closed(broker.seek(TOPIC, "g", Start.EARLIEST), "seek after close")
