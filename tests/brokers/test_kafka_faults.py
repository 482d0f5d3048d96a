"""Kafka that fails, or is asked for what cannot be: librdkafka's mock cluster, and what the servers' sentences are."""

import asyncio
import contextlib
import itertools
import socket
import time
from collections.abc import AsyncGenerator, Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from tests.brokers.test_kafka import GROUP, ids, records, take
from tidings.broker import Record
from tidings.brokers.kafka import KafkaLink
from tidings.clock import Clock
from tidings.dev import Kafka, MockKafka
from tidings.dev.server import free_port
from tidings.errors import BrokerError, Closed, ConfigError, InvalidEvent, PublishFailed, Unreachable
from tidings.kafka import offsets
from tidings.kafka.offsets import ANSWER, Offsets
from tidings.kafka.settings import broker_error
from tidings.kafka.spare import Spare

PRODUCE, TOPIC_AUTHORIZATION_FAILED = 0, 29
INIT_PRODUCER_ID, CLUSTER_AUTHORIZATION_FAILED = 22, 31
NUMBERS = itertools.count(1)


@pytest.fixture
def mock() -> Iterator[MockKafka]:
    with MockKafka(brokers=1) as cluster:
        cluster.create("order", partitions=4)
        yield cluster


@contextlib.asynccontextmanager
async def linked(url: str, options: str = "", lease: float = 10.0) -> AsyncGenerator[KafkaLink]:
    link = KafkaLink(f"{url}?{options}", Clock(), lease=lease)
    await link.open()
    link._topics["order"] = 1_000_000  # the mock cannot tell
    try:
        yield link
    finally:
        await link.close()


async def test_publishing_during_an_outage_says_what_is_unsent_and_works_afterwards(mock: MockKafka) -> None:
    async with linked(mock.url, "message.timeout.ms=3000") as link:
        await link.publish(records(3))
        mock.down(1)
        with pytest.raises(PublishFailed, match="did not take it in time") as failed:
            await link.publish(records(5, prefix="late"))
        assert sorted(failed.value.unsent) == [f"late{number}" for number in range(5)]
        mock.up(1)
        await link.publish(records(5, prefix="late"))


async def test_what_is_asked_now_and_then_does_not_dial_while_all_brokers_are_away(mock: MockKafka) -> None:
    async with linked(mock.url) as link:
        link._sticker.get()
        mock.down(1)
        async with asyncio.timeout(60):
            while link._admin._client or link._sticker._client:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        mock.up(1)
        assert await asyncio.to_thread(link._offsets.edge, "order", range(4), 1e12) == dict.fromkeys(range(4), 0)


async def test_a_full_queue_is_waited_for(mock: MockKafka) -> None:
    async with linked(mock.url, "queue.buffering.max.messages=10") as link:
        await asyncio.gather(*(link.publish(records(300, prefix=f"{number}-")) for number in range(3)))
        assert sum(link._offsets.edge("order", range(4), 1e12).values()) == 900


async def test_what_the_broker_refuses_is_named(mock: MockKafka) -> None:
    async with linked(mock.url) as link:
        mock.fail(PRODUCE, [TOPIC_AUTHORIZATION_FAILED])
        with pytest.raises(PublishFailed, match="has no right to the topic") as failed:
            await link.publish([Record("order", b"", "k", "t", "r1")])
        assert failed.value.unsent == ("r1",)


async def test_what_ends_a_producer_is_said_and_another_goes_on(mock: MockKafka) -> None:
    mock.fail(INIT_PRODUCER_ID, [CLUSTER_AUTHORIZATION_FAILED])
    async with linked(mock.url) as link:
        with pytest.raises(PublishFailed, match="an ACL has to grant IdempotentWrite") as failed:
            await link.publish([*records(2)])
        assert failed.value.unsent == ("r0", "r1")
        await link.publish(records(2))


async def test_an_attribute_that_is_no_text_is_refused_before_anything_is_sent(mock: MockKafka) -> None:
    async with linked(mock.url) as link:
        for headers in ({"own": "\ud800"}, {"o\0wn": "text"}):
            with pytest.raises(InvalidEvent):
                await link.publish([*records(1), Record("order", b"", "k", "t", "r1", 0.0, headers)])
        assert sum(link._offsets.edge("order", range(4), 1e12).values()) == 0


async def test_a_closed_connection_says_so(mock: MockKafka) -> None:
    link = KafkaLink(mock.url, Clock())
    with pytest.raises(Closed):
        await link.publish(records(1))
    await link.open()
    await link.close()
    await link.close()
    with pytest.raises(Closed):
        await link.publish(records(1))


async def test_nobody_there_is_said_with_the_remedy() -> None:
    link = KafkaLink(f"kafka://127.0.0.1:{free_port()}", Clock())
    with pytest.raises(BrokerError, match="check the URL"):
        await link.open()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("kafka://", "kafka://HOST:PORT"),
        ("kafka://h?acks=1", "'acks' cannot be set"),
        ("kafka://h?group.id=g", "'group.id' cannot be set"),
        ("kafka://h?partitions=many", "partitions=many does not fit: a whole number"),
        ("kafka://h?partitions=0", "partitions=0 does not fit"),
    ],
)
def test_an_address_that_does_not_fit_is_refused(url: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        KafkaLink(url, Clock())


async def test_an_option_that_librdkafka_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match=r'No such configuration property: "no\.such"'):
        await KafkaLink("kafka://u:secret@h?no.such=1", Clock()).open()


async def test_a_password_is_nowhere_to_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    link = KafkaLink(f"kafka://user:geheim@127.0.0.1:{port}?security.protocol=SASL_PLAINTEXT", Clock())
    with pytest.raises(BrokerError) as failed:
        await link.open()
    assert "geheim" not in f"{failed.value!r} {failed.value.__cause__!r} {link!r} {caplog.text}"


async def test_what_is_still_owned_comes_again_after_a_fence(kafka_server: Kafka) -> None:
    prefix = f"f{next(NUMBERS)}."
    link = KafkaLink(f"{kafka_server.url}?prefix={prefix}&partitions=2", Clock(), lease=3.0)
    await link.open()
    try:
        line = await link.join(["order"], GROUP)
        await link.publish(records(20))
        held = await take(line, 20, settle=False)
        line._fenced = "as if a partition had gone"
        with pytest.raises(BrokerError, match="as if"):
            await line.fetch(1, 0.0)
        await line.done(held)  # of before the fence: it means nothing
        again = await take(line, 20)
        assert sorted(ids(again)) == sorted(ids(held))
        assert {each.attempt for each in again} == {1}
        assert (await link.lag("order", GROUP)).waiting == 0
    finally:
        await link.close()


@pytest.mark.parametrize("code", [KafkaError._NOENT, KafkaError._DESTROY_BROKER, KafkaError.LEADER_NOT_AVAILABLE])
def test_what_a_broker_says_that_begins_or_ends_is_waited_for(code: int) -> None:
    assert isinstance(broker_error(KafkaError(code), "topic order cannot be declared"), Unreachable)


async def test_servers_that_refuse_are_not_waited_for_as_long_as_those_that_say_nothing() -> None:
    link = KafkaLink(f"kafka://127.0.0.1:{free_port()}", Clock())
    began = time.monotonic()
    with pytest.raises(Unreachable, match="cannot be reached"):
        await link.open()
    assert time.monotonic() - began < ANSWER


async def test_who_has_asked_is_answered_though_the_client_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "ANSWER", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        spare = Spare(lambda: AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0}))
        questions = Offsets(spare, lambda group: Consumer({"group.id": group}))
        asking = asyncio.create_task(asyncio.to_thread(questions.topic, "t"))
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            assert await asyncio.to_thread(connection.recv, 1)
            await asyncio.to_thread(spare.give_up)
            async with asyncio.timeout(60):
                with pytest.raises(KafkaException):
                    await asking
