"""Publishing and acknowledging in a transaction of the store."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from tidings.broker import Broker, Delivery, Feature, Record, Start
from tidings.errors import Conflict, Fenced
from tidings.store import Store, Table
from tidings.testing.checks.server import (
    GROUP,
    TOPIC,
    Server,
    check,
    drain,
    expect,
    ids,
    nothing,
    record,
    take,
)

ROWS = Table("contract.rows", str)
OUT = "contract.out"


class Undone(Exception):
    """What a step raises to undo its unit."""


@contextlib.asynccontextmanager
async def _opened(server: Server) -> AsyncGenerator[tuple[Broker, Store]]:
    assert server.store is not None, "an ATOMIC broker has a store"
    async with server.connect() as broker, server.store(broker) as store:
        yield broker, store


async def _row(store: Store) -> str | None:
    return await store.begin().get(ROWS, "row")


def _fail(_: Any) -> None:
    raise Undone


@check(Feature.ATOMIC)
async def state_records_and_acknowledgement_are_one_commit(server: Server) -> None:
    """After it all three are there."""
    async with _opened(server) as (broker, store):
        group, out = await broker.subscribe([TOPIC], GROUP), await broker.subscribe([OUT], None)
        await broker.publish([record("r1")])
        tx, unit = store.begin(), store.unit()
        tx.put(ROWS, "row", "written")
        store.finish(tx)
        unit.join([tx])
        await broker.publish([record("o1", topic=OUT), record("o2", topic=OUT)], tx=unit)
        await group.ack(await take(group, 1), tx=unit)
        await nothing(out, "something was published before the commit")
        expect((await broker.lag(TOPIC, GROUP)).waiting, 1, "the lag before the commit")
        await unit.commit()
        expect(ids(await take(out, 2)), ["o1", "o2"], "what was published")
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag")
        expect(await _row(store), "written", "the row")


@check(Feature.ATOMIC)
async def what_fails_undoes_all(server: Server) -> None:
    """An error in any step: no row, no record, no topic, no acknowledgement; then it can be done again."""
    async with _opened(server) as (broker, store):
        group, out = await broker.subscribe([TOPIC], GROUP), await broker.subscribe([OUT], None)
        await broker.publish([record("r1")])
        lent = await take(group, 1)
        for fails in (True, False):
            tx, unit = store.begin(), store.unit()
            tx.put(ROWS, "row", "written")
            store.finish(tx)
            unit.join([tx])
            await broker.publish([record("o1", topic=OUT), Record(OUT, b"", None, "t", "o2")], tx=unit)
            await group.ack(lent, tx=unit)
            if not fails:
                await unit.commit()
                break
            unit.add(_fail)
            with contextlib.suppress(Undone):
                await unit.commit()
            store.discard(tx)
            expect(await _row(store), None, "the row")
            expect((await broker.lag(TOPIC, GROUP)).waiting, 1, "the lag")
        await broker.publish([record("x1", topic="contract.other")])
        expect(ids(await take(out, 2)), ["o1", "o2"], "what was published")
        await nothing(out, "more was published")
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag")


@check(Feature.ATOMIC | Feature.REPLAY)
async def a_topic_that_was_undone_can_be_used(server: Server) -> None:
    """A transaction that was the first to publish to a topic and failed leaves no trace in the connection."""
    async with _opened(server) as (broker, store):
        unit = store.unit()
        await broker.publish([record("o1", topic=OUT)], tx=unit)
        unit.add(_fail)
        with contextlib.suppress(Undone):
            await unit.commit()
        await broker.publish([record("x1", topic="contract.other")])
        await broker.publish([record("o2", topic=OUT)])
        other = await broker.subscribe(["contract.other"], None, Start.EARLIEST)
        out = await broker.subscribe([OUT], None, Start.EARLIEST)
        expect(ids(await take(other, 1)), ["x1"], "what is on another topic")
        expect(ids(await take(out, 1)), ["o2"], "what was published")
        await nothing(other, "another topic got what was not for it")


@check(Feature.ATOMIC | Feature.REPLAY)
async def a_fenced_acknowledgement_undoes_all(server: Server) -> None:
    """Where one record is no longer lent, `commit` (or `ack`) raises Fenced, and no row and no record is kept."""
    async with _opened(server) as (broker, store):
        group, out = await broker.subscribe([TOPIC], GROUP), await broker.subscribe([OUT], None)
        await broker.publish([record("r1", "a"), record("r2", "b")])
        lent = await take(group, 2)
        await broker.seek(TOPIC, GROUP, Start.EARLIEST)
        tx, unit = store.begin(), store.unit()
        tx.put(ROWS, "row", "written")
        store.finish(tx)
        try:
            unit.join([tx])
            await broker.publish([record("o1", topic=OUT)], tx=unit)
            await group.ack(lent, tx=unit)
            await unit.commit()
            raise AssertionError("an acknowledgement of what is not lent was taken")
        except Fenced:
            store.discard(tx)
        await nothing(out, "something was published")
        expect(await _row(store), None, "the row")
        await group.close()
        again = await broker.subscribe([TOPIC], GROUP)
        expect(sorted(ids(await drain(again, 2))), ["r1", "r2"], "what comes again")


@check(Feature.ATOMIC)
async def sequences_are_read_when_it_commits(server: Server) -> None:
    """A step of the unit may fill the empty sequences of records and deliveries that were given before."""
    async with _opened(server) as (broker, store):
        group, out = await broker.subscribe([TOPIC], GROUP), await broker.subscribe([OUT], None)
        await broker.publish([record("r1")])
        lent = await take(group, 1)
        records: list[Record] = []
        deliveries: list[Delivery] = []
        unit = store.unit()

        def fill(_: Any) -> None:
            records[:] = [record("o1", topic=OUT)]
            deliveries[:] = lent

        unit.add(fill)
        await broker.publish(records, tx=unit)
        await group.ack(deliveries, tx=unit)
        await unit.commit()
        expect(ids(await take(out, 1)), ["o1"], "what was published")
        expect((await broker.lag(TOPIC, GROUP)).waiting, 0, "the lag")


@check(Feature.ATOMIC | Feature.DELAY)
async def a_delayed_record_joins_a_transaction(server: Server) -> None:
    """It comes when it is due where the transaction commits, and never where it does not."""
    async with _opened(server) as (broker, store):
        out = await broker.subscribe([OUT], None)
        due = server.clock.now() + 0.5
        for id, step in (("undone", _fail), ("kept", lambda _: None)):
            unit = store.unit()
            await broker.publish([record(id, topic=OUT, due=due)], tx=unit)
            unit.add(step)
            with contextlib.suppress(Undone):
                await unit.commit()
        expect(ids(await take(out, 1)), ["kept"], "what comes when it is due")
        expect(server.clock.now() >= due, True, "not before")
        await nothing(out, "what was undone came", wait=1.0)


@check(Feature.ATOMIC)
async def a_row_that_was_changed_meanwhile_is_a_conflict(server: Server) -> None:
    """Two connections read and write a row: the second to commit gets Conflict, and nothing of it is kept."""
    async with _opened(server) as (one, first), _opened(server) as (_, second):
        view = await one.subscribe([OUT], None)
        pairs = []
        for store, name in ((first, "first"), (second, "second")):
            tx, unit = store.begin(), store.unit()
            tx.put(ROWS, "row", (await tx.get(ROWS, "row", "")) + name)
            store.finish(tx)
            unit.join([tx])
            pairs.append((tx, unit))
        await pairs[0][1].commit()
        await one.publish([record("o1", topic=OUT)], tx=pairs[1][1])
        try:
            await pairs[1][1].commit()
            raise AssertionError("a lost update was committed")
        except Conflict:
            expect(list(pairs[1][1].conflicts), [pairs[1][0]], "the transactions in conflict")
        await nothing(view, "something was published")
        expect(await _row(second), "first", "the row")
