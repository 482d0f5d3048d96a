"""Plain clients beside ours: they read what we publish, and we read what they publish."""

import zlib

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.brokers.links import GROUP, own, records, taken
from tests.brokers.test_nats import opened
from tidings import binding
from tidings.broker import Record, Start
from tidings.dev import Nats
from tidings.errors import BrokerError, InvalidEvent
from tidings.jetstream import content, naming
from tidings.jetstream.wire import Frames, frame

CLOUD = {"ce-specversion": "1.0", "ce-id": "e1", "ce-type": "order.created", "ce-source": "/other"}


async def test_a_plain_client_reads_what_we_publish(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix) as link:
        await link.publish(
            [Record("order.line", b"\x00\xff", "käse 1", "order.created", "e1", 0.5, {"source": "shop"})]
        )
        plain = await nats.connect(nats_server.url)
        message = await plain.jetstream().get_msg(f"{prefix}_order=line", 1)
        await plain.close()
        assert message.subject == f"{prefix}.order=line.{zlib.crc32('käse 1'.encode()) % 8}"
        assert message.data == b"\x00\xff"
        assert message.headers == {
            "Nats-Msg-Id": "e1", "ce-id": "e1", "ce-specversion": "1.0", "ce-type": "order.created",
            "ce-source": "shop", "ce-time": "1970-01-01T00:00:00.500000Z", "ce-partitionkey": "k%C3%A4se%201",
            "content-type": "application/json",
        }  # fmt: skip


async def test_we_read_what_plain_clients_publish(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix) as link:
        line = await link.join(["order"], GROUP)
        plain = await nats.connect(nats_server.url)
        stream, subject = plain.jetstream(), f"{prefix}.order"
        await stream.publish(subject, b"1", headers=CLOUD | {"ce-partitionkey": "a%20b", "Tenant": " t "})
        await stream.publish(subject, b"2")
        await stream.publish(subject, b"3", headers={"Nats-Msg-Id": "m3"})
        event = b'{"specversion":"1.0","id":"e4","type":"t","source":"s","data":{"a":1}}'
        await stream.publish(f"{subject}.3", event, headers={"Content-Type": "application/cloudevents+json"})
        await plain.close()
        got = {each.record.id: each.record for each in await taken(line, 4)}
        assert got["e1"] == Record(
            "order", b"1", "a b", "order.created", "e1", 0.0, {"source": "/other", "tenant": "t"}
        )
        assert got[f"{prefix}_order:2"] == Record("order", b"2", None, "", f"{prefix}_order:2")
        assert got["m3"] == Record("order", b"3", None, "", "m3")
        assert got["e4"] == Record("order", b'{"a":1}', None, "t", "e4", 0.0, {"source": "s"})


async def test_a_stream_of_others_is_not_taken(nats_server: Nats) -> None:
    prefix = own()
    plain = await nats.connect(nats_server.url)
    await plain.jetstream().add_stream(name=f"{prefix}_order", subjects=[f"{prefix}.elsewhere"])
    await plain.close()
    async with opened(nats_server, prefix) as link:
        with pytest.raises(BrokerError, match=r"is not one of tidings.*another prefix"):
            await link.declare("order", [GROUP])


async def test_a_topic_keeps_its_parts_whatever_an_address_says_later(nats_server: Nats) -> None:
    prefix = own()
    async with opened(nats_server, prefix, "&parts=3") as few, opened(nats_server, prefix) as many:
        await few.publish(records(30, keys=30))
        await many.publish(records(30, keys=30, start=30))
        assert len(await taken(await few.join(["order"], GROUP, Start.EARLIEST), 60)) == 60


@given(
    st.text(st.characters(exclude_categories=["Cs"])), st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(st.from_regex("[a-z0-9]{1,20}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"]))),
)  # fmt: skip
def test_a_record_comes_back_as_it_was(id: str, key: str | None, told: dict[str, str]) -> None:
    headers = {name: text for name, text in told.items() if name not in {*binding.OWN, "source", "datacontenttype"}}
    record = Record("order", b"x", key, "order.created", id or "none", 12.5, headers)
    assert content.record("order", *content.message(record), "place") == record


@pytest.mark.parametrize(
    "headers",
    [
        {"time": "yesterday"}, {"datacontenttype": 'text/plain; charset="utf-8"'}, {"source": ""}, {"Tenant": "a  b "},
        {"datacontenttype": "application/cloudevents"}, {"source": "%41"}, {"specversionx": "1"},
    ],
)  # fmt: skip
def test_odd_headers_come_back_as_they_were(headers: dict[str, str]) -> None:
    record = Record("order", b"x", "k", "order.created", "e1", 0.0, headers)
    assert content.record("order", *content.message(record), "place") == record


def test_what_says_that_it_is_structured_and_is_not_comes_as_it_is() -> None:
    for body in (b"", b"[" * 100_000, b'{"id":1}', b"\xff"):
        record = content.record("order", b"NATS/1.0\r\nContent-Type: application/cloudevents+json\r\n\r\n", body, "p:1")
        assert (record.value, record.type, record.id) == (body, "", "p:1")


@pytest.mark.parametrize("large", [{"long": "x" * 70_000}, {f"h{n}": "é" for n in range(8000)}])
def test_more_headers_than_nats_takes_go_into_the_body(large: dict[str, str]) -> None:
    record = Record("order", bytes(range(256)), "", "order.created", "e 1", 12.5, large)
    headers, body = content.message(record)
    assert len(headers) < 200
    assert content.record("order", headers, body, "place") == record


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "é"])
def test_a_header_whose_name_nats_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(InvalidEvent, match="cannot carry"):
        content.message(Record("order", b"", None, "t", "e1", 0.0, {name: "x"}))


@given(st.lists(st.text(min_size=1), min_size=2, unique=True))
def test_names_stay_apart(names: list[str]) -> None:
    tokens = [naming.token(name.encode("utf-8", "replace").decode()) for name in names]
    if len({name.encode("utf-8", "replace") for name in names}) == len(names):
        assert len(set(tokens)) == len(tokens)
    assert not [token for token in tokens if set(token) & set(" .*>/\\\r\n")]


@given(st.lists(st.tuples(st.binary(), st.booleans(), st.booleans()), max_size=8), st.data())
async def test_frames_are_the_same_however_they_are_cut(
    messages: list[tuple[bytes, bool, bool]], data: st.DataObject
) -> None:
    sent, expected = b"", []
    for body, headed, replied in messages:
        headers, reply = b"NATS/1.0\r\na: b\r\n\r\n" if headed else b"", b"reply" if replied else b""
        to = b"there 1 reply" if replied else b"there 1"
        made = frame(to, b"", headers, body)
        sent += (b"HMSG" + made[4:] if headed else b"MSG" + made[3:]).replace(b"  ", b" ", 1) + b"+OK\r\n"
        expected.append((b"there", reply, headers, body))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=6)))
    got: list[tuple[bytes, ...]] = []
    frames = Frames(nats.NATS(), {b"1": lambda *message: got.append(message)})
    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        await frames.parse(sent[start:end])
    assert got == expected
