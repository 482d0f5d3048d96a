"""What a record says like those before it is read in short, and comes as it was published."""

from collections.abc import Mapping

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidings.broker import Record, Start
from tidings.brokers.sqlite import SqliteBroker

TOPIC, GROUP = "order", "shop.look"
HEADERS: list[Mapping[str, str]] = [{}, {"source": "shop"}, {"source": "till", "traceparent": "00-1"}]
SAID = st.tuples(st.sampled_from(["", "order.created", "order.paid"]), st.sampled_from(HEADERS))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SAID, min_size=1, max_size=12), st.lists(st.integers(1, 4), min_size=1))
async def test_types_and_headers_come_as_they_were_published(
    broker: SqliteBroker, said: list[tuple[str, Mapping[str, str]]], limits: list[int]
) -> None:
    topic = f"{TOPIC}{broker.clock.id()}"
    await broker.declare(topic, [GROUP], Start.EARLIEST)
    records = [
        Record(topic, b"{}", None, type, f"{topic}{index}", 1.0, headers) for index, (type, headers) in enumerate(said)
    ]
    await broker.publish(records)
    group = await broker.subscribe([topic], GROUP)
    view = await broker.subscribe([topic], None, Start.EARLIEST)
    lent: list[Record] = []
    seen: list[Record] = []
    for turn in range(2 * len(records)):
        limit = limits[turn % len(limits)]
        lent += [each.record for each in await group.fetch(limit, 0.0)]
        seen += [each.record for each in await view.fetch(limit, 0.0)]

    assert lent == seen == records
    await group.close()
    await view.close()
