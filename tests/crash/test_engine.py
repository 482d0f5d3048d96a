"""What crash runs have found in the engine, each as a small case that fails without its fix."""

import asyncio
import gc
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest

from tidings import App, Event, Retry, Start, Table, Tx
from tidings.broker import Delivery, Record, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.group import Group
from tidings.embedded.membership import bury_members
from tidings.errors import Conflict, Fenced
from tidings.stores.sqlite import SqliteStore
from tidings.worker import Worker


class Moved(Event, name="thing.moved", key="key"):
    number: int
    key: str


class Noted(Event, name="note.noted"):
    number: int


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("shop", f"sqlite:{tmp_path / 'tidings.db'}?durable=no")


def records(*names: str) -> list[Record]:
    """Records whose key is the first letter of their id."""
    return [Record("t", b"{}", key=name[0], type="t.t", id=name) for name in names]


def ids(deliveries: Iterable[Delivery]) -> list[str]:
    return [delivery.record.id for delivery in deliveries]


async def join(broker: SqliteBroker, group: str = "g") -> Group:
    """A member of a group, which begins at the start of the topic."""
    member = await broker.subscribe(["t"], group, Start.EARLIEST)
    assert isinstance(member, Group)
    return member


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    """Fetch until so many have come."""
    taken: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(taken) < count:
            taken += await subscription.fetch(count - len(taken), 1.0)
    return taken


async def waiting(app: App, topic: str, handler: str) -> int | None:
    assert app.connection is not None
    return (await app.connection.broker.lag(topic, f"{app.name}.{handler}")).waiting


async def settled(app: App, topic: str, handler: str) -> None:
    """Wait until the handler has nothing left to do."""
    async with asyncio.timeout(60):
        while await waiting(app, topic, handler):  # noqa: ASYNC110 - what is settled sets no event
            await asyncio.sleep(0.01)


async def idle(worker: Worker) -> None:
    """Wait until the worker counts nothing as in flight: the file has the last commit before the worker knows it."""
    async with asyncio.timeout(60):
        while worker.meter.in_flight:  # noqa: ASYNC110 - it sets no event
            await asyncio.sleep(0.001)


async def test_a_list_handled_in_the_transaction_is_acknowledged_in_it(app: App) -> None:
    handled: list[int] = []

    @app.on(Noted, start=Start.EARLIEST)
    def note(notes: list[Noted], db: sqlite3.Connection) -> None:
        handled.extend(noted.number for noted in notes)

    async with app.running():
        await app.publish(*(Noted(number=number) for number in range(5)))
        await settled(app, "note", "note")
    assert handled == list(range(5))


async def test_what_is_fetched_while_its_key_is_held_back_comes_later(broker: SqliteBroker) -> None:
    group = await join(broker)
    await broker.publish(records("a1", "b1"))
    a1, b1 = await take(group, 2)
    await group.nack([a1], delay=60.0)
    await broker.publish(records("a2", "b2"))
    fetching = asyncio.create_task(group.fetch(10, 0.0))
    await asyncio.sleep(0)  # it puts a2 in line behind a1, which takes a commit
    await group.nack([b1])
    lent = [*await fetching, *await take(group, 1)]
    await group.ack(lent)
    assert ids([*lent, *await take(group, 1)]) == ["b1", "b2"]


async def test_an_event_in_conflict_is_handled_again_before_a_later_one_of_its_key_that_fails(
    app: App, tmp_path: Path
) -> None:
    other = App("other", f"sqlite:{tmp_path / 'tidings.db'}?durable=no")
    table = app.table("rows", int)
    begun: list[int] = []

    @app.on(Moved, retry=Retry(first=0.01, at_once=0), start=Start.EARLIEST)
    async def move(moved: Moved, tx: Tx) -> None:
        begun.append(moved.number)
        if moved.number == 1:
            tx.put(table, "row", await tx.get(table, "row", 0) + 1)
            if begun == [1]:
                async with other.transaction() as meanwhile:
                    meanwhile.put(table, "row", 10)
        elif begun.count(1) == 1:
            await asyncio.sleep(0.1)  # until the conflict is known
            raise ValueError

    async with other, app.running():
        await app.publish(Moved(number=1, key="a"), Moved(number=2, key="a"))
        await settled(app, "thing", "move")
        assert app.connection is not None
        assert await app.connection.store.begin().get(table, "row") == 11
    assert begun == [1, 2, 1, 2]


def keyless(*names: str) -> list[Record]:
    return [Record("t", b"{}", type="t.t", id=name) for name in names]


async def bury(broker: SqliteBroker, *members: Group) -> None:
    """What another process does when theirs has died."""
    ids = [member.member for member in members]
    await broker.run(lambda connection: bury_members(connection, ids, broker.lent))
    for member in members:
        member.stale = True
        member.wake.set()


OWN, OTHERS = "a", "k"
"""Keys of which the first of two members of a group owns one and the second the other."""


async def two_members(broker: SqliteBroker) -> tuple[Group, Group]:
    """Two members of one group, each with its half of the parts."""
    one = await join(broker)
    other = await join(broker)
    for member in (one, other):
        member.stale = True
        await member.fetch(1, 0.0)
    return one, other


async def drain(subscription: Subscription, wait: float = 0.0) -> list[str]:
    """Fetch and acknowledge until nothing comes any more."""
    taken: list[str] = []
    while lent := await subscription.fetch(10, wait):
        taken += ids(lent)
        await subscription.ack(lent)
    return taken


async def test_what_waited_behind_an_earlier_one_is_not_lent_before_it_after_a_death(broker: SqliteBroker) -> None:
    group = await join(broker)
    await broker.publish(records("a1", "a2"))
    _, a2 = await take(group, 2)
    await group.nack([a2])
    await bury(broker, group)
    assert await drain(await join(broker)) == ["a1", "a2"]


async def test_what_waited_behind_an_earlier_one_is_not_lent_before_it_after_a_leave(broker: SqliteBroker) -> None:
    group = await join(broker)
    await broker.publish(records("a1", "a2"))
    _, a2 = await take(group, 2)
    await group.nack([a2])
    await group.close()
    assert await drain(await join(broker)) == ["a1", "a2"]


async def test_a_record_without_a_key_that_is_to_be_retried_comes_once_after_a_leave(broker: SqliteBroker) -> None:
    group = await join(broker)
    await broker.publish(keyless("n1", "n2"))
    _, n2 = await take(group, 2)
    await group.nack([n2], delay=0.1)
    await group.close()
    assert await drain(await join(broker), wait=0.3) == ["n1", "n2"]


async def test_what_a_cancelled_fetch_was_about_to_lend_again_is_not_lost_when_its_member_leaves(
    broker: SqliteBroker,
) -> None:
    group = await join(broker)
    await broker.publish(records("a1"))
    await group.nack(await take(group, 1))
    fetching = asyncio.create_task(group.fetch(1, 1.0))
    await asyncio.sleep(0)  # it counts the attempt, which takes a commit
    fetching.cancel()
    await group.close()
    assert await drain(await join(broker)) == ["a1"]


async def test_seeking_one_topic_hands_over_what_is_lent_of_the_others(broker: SqliteBroker) -> None:
    await broker.declare("u", ["g"])
    group = await broker.subscribe(["t", "u"], "g", Start.EARLIEST)
    await broker.publish(records("a1"))
    await group.nack(await take(group, 1))
    await take(group, 1)
    await broker.seek("u", "g", Start.EARLIEST)
    with pytest.raises(Fenced):
        await group.fetch(1, 1.0)
    assert await drain(group) == ["a1"]


async def test_a_retried_record_that_is_settled_before_an_earlier_one_stays_settled(broker: SqliteBroker) -> None:
    group = await join(broker)
    await broker.publish(records("a1", "b1"))
    _, b1 = await take(group, 2)
    await group.nack([b1])
    await group.ack(await take(group, 1))
    await bury(broker, group)
    assert await drain(await join(broker)) == ["a1"]


async def test_what_a_member_settles_beyond_the_place_that_it_went_back_to_stays_settled(broker: SqliteBroker) -> None:
    one, other = await two_members(broker)
    await broker.publish(records(OTHERS, OWN))
    own = await take(one, 1)
    await other.close()
    await one.rebalance()  # it goes back for what the other has not settled
    await one.ack(own)
    await bury(broker, one)
    assert await drain(await join(broker)) == [OTHERS]


async def test_what_was_out_when_a_member_went_back_is_suspect_after_its_death(broker: SqliteBroker) -> None:
    one, other = await two_members(broker)
    await broker.publish(records(OTHERS, OWN))
    await take(one, 1)
    await other.close()
    one.stale = True
    await take(one, 1)
    await bury(broker, one)
    third = await join(broker)
    assert [(d.record.id, d.attempt) for d in await third.fetch(10, 0.0)] == [(OTHERS, 2), (OWN, 2)]


async def test_a_late_commit_of_what_was_lost_and_is_lent_again_is_fenced(broker: SqliteBroker) -> None:
    store = SqliteStore(broker.database, lambda: broker.writer)
    group = await join(broker)
    await broker.publish(records("a1"))
    late = store.unit()
    await group.ack(await take(group, 1), tx=late)
    await bury(broker, group)
    with pytest.raises(Fenced):
        await group.fetch(1, 0.0)
    again = await take(group, 1)
    with pytest.raises(Fenced):
        await late.commit()
    await group.ack(again)


async def test_holding_back_a_record_withdraws_a_later_one_of_its_key_that_is_tried_again(broker: SqliteBroker) -> None:
    group = await join(broker)
    await broker.publish(records("a1", "a2"))
    a1, a2 = await take(group, 2)
    await group.nack([a2])
    await take(group, 1)
    await group.nack([a1])
    assert await drain(group) == ["a1", "a2"]


async def test_a_record_without_a_key_that_is_to_be_retried_comes_once_when_its_part_is_given_up(
    broker: SqliteBroker,
) -> None:
    other, one = await two_members(broker)
    await broker.publish([*records(OWN), *keyless(*(f"n{number}" for number in range(16)))])
    await one.nack(await take(one, 8), delay=0.3)
    await other.close()
    await one.rebalance()  # it goes back for what the other has not settled
    third = await join(broker)
    await one.rebalance()  # and gives those parts up in which records are to be retried
    await third.rebalance()
    taken = [*await drain(one), *await drain(third, 0.4)]
    assert len(taken) == len(set(taken)) == 17


async def test_a_topic_made_in_a_transaction_that_failed_is_made_again(broker: SqliteBroker) -> None:
    def fail(_: object) -> None:
        raise KeyError

    unit = SqliteStore(broker.database, lambda: broker.writer).unit()
    await broker.publish(records("a1"), tx=unit)
    unit.add(fail)
    with pytest.raises(KeyError):
        await unit.commit()
    await broker.subscribe(["u"], "g", Start.EARLIEST)  # it may get the number that was given back
    await broker.publish(records("a1"))
    assert await drain(await join(broker, "h")) == ["a1"]


async def test_a_delayed_record_is_moved_by_another_process_that_waits_for_a_later_one(broker: SqliteBroker) -> None:
    group = await join(broker)
    now = broker.clock.now()
    await broker.publish([msgspec.structs.replace(records("a1")[0], due=now + 60.0)])
    await asyncio.sleep(0.01)
    publisher = SqliteBroker(broker.database, Clock())
    await publisher.open()
    await publisher.publish([msgspec.structs.replace(records("a2")[0], due=now + 0.1)])
    await publisher.close()
    assert ids(await take(group, 1)) == ["a2"]


async def test_a_record_that_is_lent_again_before_its_nack_has_returned_can_be_settled(broker: SqliteBroker) -> None:
    group = await join(broker)
    await broker.publish(records("a1", "b1"))
    a1, b1 = await take(group, 2)
    await group.nack([b1])
    nacking = asyncio.create_task(group.nack([a1]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.1)  # the commit is there, and nobody has heard of it  # noqa: ASYNC251
    lent = await group.fetch(2, 1.0)
    await nacking
    await group.ack(lent)
    assert (await broker.lag("t", "g")).waiting == 0


async def test_a_record_that_is_put_behind_another_while_it_is_lent_again_is_not_lent(broker: SqliteBroker) -> None:
    group = await join(broker)
    await broker.publish(records("a1", "a2"))
    a1, a2 = await take(group, 2)
    await group.nack([a2])
    _, lent = await asyncio.gather(group.nack([a1]), group.fetch(1, 0.0))
    assert not lent
    assert await drain(group) == ["a1", "a2"]


async def test_what_was_built_on_a_discarded_transaction_is_not_seen(broker: SqliteBroker) -> None:
    store = SqliteStore(broker.database, lambda: broker.writer)
    await store.open()
    rows = Table("rows", int)

    async def count() -> Tx:
        tx = store.begin()
        tx.put(rows, "row", await tx.get(rows, "row", 0) + 1)
        assert store.finish(tx)
        return tx

    first, second = await count(), await count()
    store.discard(first)
    third = await count()
    for tx in (third, second):  # the other way round the one would doom the other for ever
        unit = store.unit()
        unit.join([tx])
        with nullcontext() if tx is third else pytest.raises(Conflict):
            await unit.commit()
    assert await store.begin().get(rows, "row") == 1
    await store.close()


async def test_what_has_read_a_transaction_that_is_discarded_meanwhile_is_run_again(broker: SqliteBroker) -> None:
    store = SqliteStore(broker.database, lambda: broker.writer)
    await store.open()
    rows = Table("rows", int)
    first, second = store.begin(), store.begin()
    first.put(rows, "row", 1)
    assert store.finish(first)
    second.put(rows, "row", await second.get(rows, "row", 0) + 1)
    store.discard(first)
    assert not store.finish(second)  # or the next one would build on it, be doomed as well, and so on for ever
    assert await store.begin().get(rows, "row", 0) == 0
    await store.close()


@pytest.mark.parametrize("kind", ["thread", "transaction", "loop", "list"])
async def test_a_worker_goes_on_after_it_was_taken_for_dead(app: App, kind: str) -> None:
    begun: list[int] = []
    lost = threading.Event()

    async def on_loop(moved: Moved) -> None:
        begun.append(moved.number)
        while not lost.is_set():  # noqa: ASYNC110 - handlers in threads wait for it too
            await asyncio.sleep(0.01)

    async def on_loop_list(moved: list[Moved]) -> None:
        for each in moved:
            await on_loop(each)

    def in_thread(moved: Moved) -> None:
        begun.append(moved.number)
        lost.wait(5)

    def in_transaction(moved: Moved, db: sqlite3.Connection) -> None:
        begun.append(moved.number)

    handlers: dict[str, Callable[..., object]] = {
        "thread": in_thread,
        "transaction": in_transaction,
        "loop": on_loop,
        "list": on_loop_list,
    }
    app.on(Moved, name="move", start=Start.EARLIEST)(handlers[kind])
    async with app.running():
        await app.publish(*(Moved(number=number, key=str(number % 3)) for number in range(50)))
        async with asyncio.timeout(60):
            while not begun:  # noqa: ASYNC110 - the handler may run in a thread
                await asyncio.sleep(0.01)
        assert app.connection is not None
        broker = app.connection.broker
        assert isinstance(broker, SqliteBroker)
        await bury(broker, *[group for group in broker._groups if group.name == "shop.move"])
        await asyncio.sleep(0.1)
        lost.set()
        await app.publish(*(Moved(number=number, key=str(number % 3)) for number in range(50, 100)))
        await settled(app, "thing", "move")
        await idle(app.worker("move"))
    assert set(begun) == set(range(100))


async def test_a_worker_that_is_taken_for_dead_between_two_tries_goes_on(app: App) -> None:
    begun: list[int] = []

    @app.on(Moved, start=Start.EARLIEST, retry=Retry(at_once=4))
    def move(moved: Moved, db: sqlite3.Connection) -> None:
        begun.append(moved.number)
        if moved.number == 0 and begun.count(0) <= 4:
            raise KeyError

    async with app.running():
        await app.publish(Moved(number=0, key="a"))
        worker = app.worker("move")
        async with asyncio.timeout(60):
            while begun.count(0) < 4 or not worker.lanes[0].paused:  # noqa: ASYNC110 - the handler runs in a thread
                await asyncio.sleep(0.001)  # the pause after the fourth try is longer than what follows takes
        lane = worker.lanes[0]
        lane.current = Delivery(records("a1")[0], 1, 1)  # as a thread that runs on does it
        assert app.connection is not None
        broker = app.connection.broker
        assert isinstance(broker, SqliteBroker)
        await bury(broker, *[group for group in broker._groups if group.name == "shop.move"])
        await app.publish(*(Moved(number=number, key=str(number)) for number in range(1, 10)))
        await settled(app, "thing", "move")
        await idle(app.worker("move"))
    assert set(begun) == set(range(10))


async def test_what_a_handler_raised_is_forgotten_when_it_is_settled(app: App) -> None:
    class Raised(Exception):
        pass

    @app.on(Moved, start=Start.EARLIEST, retry=Retry(at_once=2, first=0.001))
    def move(moved: Moved, db: sqlite3.Connection, delivery: Delivery) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS moves (number INTEGER)")
        db.execute("INSERT INTO moves VALUES (?)", (moved.number,))
        if moved.number % 2 and delivery.attempt == 1:
            raise Raised

    async with app.running():
        await app.publish(*(Moved(number=number, key=str(number)) for number in range(50)))
        await settled(app, "thing", "move")
        gc.collect()
        left = [each for each in gc.get_objects() if isinstance(each, Raised)]
        assert len(left) < 5  # the last ones are still in somebody's hands
