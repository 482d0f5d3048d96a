"""What a handler can be, and what happens to an event in it."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.running import rows, settled, url
from tidings import App, Delivery, Event, HandlerTimeout, ItemsFailed, Record, Retry, Start, Tx, worker
from tidings.clock import Clock
from tidings.dead import topic_of
from tidings.embedded import database


class Placed(Event, name="order.placed", key="order"):
    order: str
    number: int = 0


class Paid(Event, name="order.paid", key="order"):
    order: str


class Low(Event, name="stock.low", key="sku"):
    sku: str


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App("shop", url(tmp_path))


NEVER = Retry.NEVER
SOON = Retry(times=2, first=0.01, factor=1.0, at_once=0)


async def dead_letters(app: App, handler: str) -> list[Record]:
    assert app.connection is not None
    view = await app.connection.broker.subscribe([topic_of(f"{app.name}.{handler}")], None, Start.EARLIEST)
    return [delivery.record for delivery in await view.fetch(100, 0.0)]


async def test_what_a_handler_returns_or_yields_is_published(app: App) -> None:
    heard: list[str] = []

    @app.on(Placed)
    async def one(event: Placed) -> Low | None:
        return Low(sku="async return") if event.number else None

    @app.on(Placed)
    async def stream(event: Placed) -> AsyncIterator[Low]:
        yield Low(sku="async yield 1")
        yield Low(sku="async yield 2")

    @app.on(Placed)
    def several(event: Placed) -> list[Low]:
        return [Low(sku="def list")]

    @app.on(Placed)
    def generated(event: Placed) -> Iterator[Low]:
        yield Low(sku="def yield")

    @app.on(Placed)
    def in_transaction(event: Placed, db: sqlite3.Connection) -> Iterator[Low]:
        yield Low(sku="sql yield")

    @app.on(Low)
    async def hear(event: Low) -> None:
        heard.append(event.sku)

    async with app.running():
        await app.publish(Placed(order="o", number=1))
        await settled(app)
        await settled(app)
    assert sorted(heard) == ["async return", "async yield 1", "async yield 2", "def list", "def yield", "sql yield"]


async def test_one_handler_for_several_events(app: App) -> None:
    heard: list[Event] = []

    @app.on(Placed, Paid)
    async def hear(event: Placed | Paid) -> None:
        heard.append(event)

    async with app.running():
        await app.publish(Placed(order="o"), Paid(order="o"))
        await settled(app)
    assert heard == [Placed(order="o"), Paid(order="o")]


async def test_siblings_on_the_topic_pass_by(app: App) -> None:
    heard: list[Event] = []

    @app.on(Paid)
    async def hear(event: Paid) -> None:
        heard.append(event)

    async with app.running():
        await app.publish(Placed(order="o"), Paid(order="o"))
        await settled(app)
        assert app.worker("hear").meter.skipped == 1
    assert heard == [Paid(order="o")]


async def test_every_record_of_a_topic(app: App) -> None:
    heard: list[str] = []

    @app.on("order")
    async def hear(record: Record) -> None:
        heard.append(record.type)

    async with app.running():
        await app.publish(Placed(order="o"), Paid(order="o"))
        await settled(app)
    assert heard == ["order.placed", "order.paid"]


async def test_parameters_are_provided_by_type_and_close_with_the_app(app: App) -> None:
    seen: list[object] = []

    class Mailer:
        closed = False

    async def mailer() -> AsyncIterator[Mailer]:
        made = Mailer()
        yield made
        made.closed = True

    app.provide(mailer)
    app.provide(7, kind=int)

    @app.on(Placed)
    async def send(event: Placed, mail: Mailer, number: int, delivery: Delivery, optional: str = "default") -> None:
        seen.extend([mail, number, delivery.attempt, optional])

    async with app.running():
        await app.publish(Placed(order="o"))
        await settled(app)
        assert isinstance(seen[0], Mailer)
        assert not seen[0].closed
    assert seen[1:] == [7, 1, "default"]
    assert isinstance(seen[0], Mailer)
    assert seen[0].closed


async def test_a_key_keeps_its_order_while_others_go_on_beside_it(app: App) -> None:
    order: list[tuple[str, int]] = []

    @app.on(Placed, concurrency=4)
    async def handle(event: Placed) -> None:
        if event.order == "slow":
            await asyncio.sleep(0.02)
        order.append((event.order, event.number))

    async with app.running():
        await app.publish(*(Placed(order=order, number=n) for n in range(5) for order in ("slow", "quick")))
        await settled(app)
    assert [number for key, number in order if key == "slow"] == list(range(5))
    assert [number for key, number in order if key == "quick"] == list(range(5))
    assert order.index(("quick", 4)) < order.index(("slow", 1))


async def test_it_is_tried_at_once_then_later_then_buried_with_its_cause(app: App) -> None:
    tries: list[int] = []

    @app.on(Placed, retry=Retry(times=2, first=0.01, factor=1.0, at_once=1))
    async def fail(event: Placed, delivery: Delivery) -> None:
        tries.append(delivery.attempt)
        raise ValueError("it cannot be")

    async with app.running():
        await app.publish(Placed(order="o"))
        await settled(app)
        (letter,) = await dead_letters(app, "fail")
    assert tries == [1, 1, 2, 2, 3, 3]
    assert (letter.headers["deaderror"], letter.headers["deadcause"]) == ("ValueError", "it cannot be")
    assert letter.headers["deadattempts"] == "3"
    assert letter.headers["origintopic"] == "order"
    assert letter.type == "order.placed"


async def test_a_policy_for_each_type_of_error(app: App) -> None:
    tries: list[str] = []

    @app.on(Placed, retry={ValueError: NEVER, OSError: SOON})
    async def fail(event: Placed) -> None:
        tries.append(event.order)
        raise UnicodeError if event.order == "a" else ConnectionError

    async with app.running():
        await app.publish(Placed(order="a"), Placed(order="b"))
        await settled(app)
    assert sorted(tries) == ["a", "b", "b", "b"]


async def test_later_ones_of_a_key_wait_behind_one_that_is_tried_later(app: App) -> None:
    handled: list[tuple[str, int]] = []

    @app.on(Placed, retry=SOON)
    async def fail_once(event: Placed, delivery: Delivery) -> None:
        if event.number == 0 and event.order == "a" and delivery.attempt == 1:
            raise ValueError
        handled.append((event.order, event.number))

    async with app.running():
        await app.publish(*(Placed(order=order, number=n) for n in range(3) for order in "ab"))
        await settled(app)
    assert [n for order, n in handled if order == "a"] == [0, 1, 2]
    assert handled.index(("b", 2)) < handled.index(("a", 0))


@pytest.mark.parametrize("bad", [b"{", b'{"order": 7}', b"[" * 100_000, b"\xff", b""])
async def test_what_does_not_decode_is_buried_at_once(app: App, bad: bytes) -> None:
    handled: list[str] = []

    @app.on(Placed)
    async def handle(event: Placed) -> None:
        handled.append(event.order)

    async with app.running():
        assert app.connection is not None
        await app.connection.broker.publish([Record("order", bad, "o", "order.placed", "bad")])
        await app.publish(Placed(order="o"))
        await settled(app)
        (letter,) = await dead_letters(app, "handle")
        assert app.worker("handle").meter.retried == 0
    assert letter.headers["deaderror"] == "DecodeError"
    assert letter.value == bad
    assert handled == ["o"]


@pytest.mark.parametrize("stranger", ["", "weather.changed"])
async def test_a_type_that_does_not_belong_on_the_topic_is_buried(app: App, stranger: str) -> None:
    @app.on(Placed)
    async def handle(event: Placed) -> None: ...

    async with app.running():
        assert app.connection is not None
        await app.connection.broker.publish([Record("order", b"{}", None, stranger, "s")])
        await settled(app)
        (letter,) = await dead_letters(app, "handle")
    assert letter.headers["deaderror"] == "UnknownType"


async def test_a_handler_over_its_time_limit_is_cancelled_and_the_others_go_on(app: App) -> None:
    handled: list[str] = []

    @app.on(Placed, timeout=0.05, retry=NEVER)
    async def hang(event: Placed) -> None:
        if event.order == "hangs":
            await asyncio.Event().wait()
        handled.append(event.order)

    async with app.running():
        await app.publish(Placed(order="hangs"), Placed(order="goes"))
        await settled(app)
        (letter,) = await dead_letters(app, "hang")
    assert letter.headers["deaderror"] == HandlerTimeout.__name__
    assert handled == ["goes"]


async def test_a_list_handler_gets_many_and_can_fail_single_ones(app: App) -> None:
    handled: list[int] = []
    most = 0

    @app.on(Placed, retry=SOON, batch=10)
    async def many(events: list[Placed]) -> None:
        nonlocal most
        most = max(most, len(events))
        odd = [event for event in events if event.number % 2 and event.number not in handled]
        handled.extend(event.number for event in events)
        if odd:
            raise ItemsFailed([(event, ValueError("odd, and new")) for event in odd])

    async with app.running():
        app.worker("many").pause()
        await app.publish(*(Placed(order=str(n), number=n) for n in range(4)))
        app.worker("many").resume()
        await settled(app)
        assert await dead_letters(app, "many") == []
    assert most > 1
    assert sorted(handled) == [0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("kind", ["async", "def", "transaction"])
async def test_a_list_that_fails_as_a_whole_is_handled_one_by_one(app: App, kind: str) -> None:
    handled: list[int] = []

    def work(events: list[Placed]) -> None:
        if any(event.number == 2 for event in events):
            raise ValueError
        handled.extend(event.number for event in events)

    if kind == "async":

        @app.on(Placed, retry=NEVER)
        async def many(events: list[Placed]) -> None:
            work(events)

    elif kind == "def":

        @app.on(Placed, retry=NEVER)
        def many(events: list[Placed]) -> None:
            work(events)

    else:

        @app.on(Placed, retry=NEVER)
        def many(events: list[Placed], db: sqlite3.Connection) -> None:
            work(events)

    async with app.running():
        await app.publish(*(Placed(order=str(n), number=n) for n in range(5)))
        await settled(app)
        (letter,) = await dead_letters(app, "many")
    assert letter.value == b'{"order":"2","number":2}'
    assert sorted(handled) == [0, 1, 3, 4]


async def test_def_handlers_run_beside_the_loop_as_many_as_they_may(app: App) -> None:
    together = threading.Barrier(3)
    threads: set[str] = set()

    @app.on(Placed, concurrency=3)
    def wait(event: Placed) -> None:
        together.wait(5)
        threads.add(threading.current_thread().name)

    async with app.running():
        app.worker("wait").pause()
        await app.publish(*(Placed(order=str(n)) for n in range(3)))
        app.worker("wait").resume()
        await settled(app)
    assert len(threads) == 3
    assert threading.main_thread().name not in threads


async def test_a_def_handler_that_fails_keeps_its_key_in_order(app: App) -> None:
    handled: list[tuple[str, int]] = []

    @app.on(Placed, retry=SOON)
    def work(event: Placed, delivery: Delivery) -> None:
        if (event.order, event.number, delivery.attempt) == ("a", 1, 1):
            raise ValueError
        handled.append((event.order, event.number))

    @app.on(Placed, retry=Retry(times=1, first=0.01, at_once=1))
    def plain(event: Placed) -> None:
        if event.number == 3:
            raise ValueError

    async with app.running():
        await app.publish(*(Placed(order=order, number=n) for n in range(5) for order in "ab"))
        await settled(app)
        assert len(await dead_letters(app, "plain")) == 2
        assert app.worker("plain").meter.handled == 10
    assert [n for order, n in handled if order == "a"] == list(range(5))


async def test_sql_and_messages_are_kept_together_or_not_at_all(app: App, tmp_path: Path) -> None:
    heard: list[str] = []

    @app.on(Placed, retry=NEVER)
    def book(event: Placed, db: sqlite3.Connection) -> Low:
        db.execute("CREATE TABLE IF NOT EXISTS sales (number INTEGER)")
        db.execute("INSERT INTO sales VALUES (?)", (event.number,))
        if event.number == 2:
            raise ValueError
        return Low(sku=str(event.number))

    @app.on(Low)
    async def hear(event: Low) -> None:
        heard.append(event.sku)

    async with app.running():
        await app.publish(*(Placed(order=str(n), number=n) for n in range(5)))
        await settled(app)
        await settled(app)
    assert rows(tmp_path, "SELECT number FROM sales ORDER BY number") == [(0,), (1,), (3,), (4,)]
    assert sorted(heard) == ["0", "1", "3", "4"]


@pytest.mark.parametrize("takes_list", [False, True])
async def test_what_is_refused_at_the_commit_is_the_failure_of_its_event(
    app: App, tmp_path: Path, takes_list: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PRAGMAS", f"{database.PRAGMAS} PRAGMA foreign_keys=ON;")  # some builds have it so

    def write(event: Placed, db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS sale (number INTEGER PRIMARY KEY, of INTEGER REFERENCES sale DEFERRABLE "
                   "INITIALLY DEFERRED)")  # fmt: skip
        db.execute("INSERT INTO sale VALUES (?, ?)", (event.number, 7 if event.number == 2 else None))

    def many(events: list[Placed], db: sqlite3.Connection) -> None:
        for event in events:
            write(event, db)

    app.on(Placed, name="book", retry=SOON)(many if takes_list else write)
    async with app.running():
        app.worker("book").pause()
        await app.publish(*(Placed(order=str(n), number=n) for n in range(5)))
        app.worker("book").resume()
        await settled(app)
        (letter,) = await dead_letters(app, "book")
    assert letter.value == b'{"order":"2","number":2}'
    assert letter.headers["deaderror"].endswith("CommitRefused")
    assert rows(tmp_path, "SELECT number FROM sale ORDER BY number") == [(0,), (1,), (3,), (4,)]


@pytest.mark.parametrize("ending", ["commit()", "rollback()", "COMMIT", "commit;", "END", "executescript"])
async def test_a_handler_cannot_end_the_transaction(app: App, tmp_path: Path, ending: str) -> None:
    @app.on(Placed, retry=NEVER)
    def book(event: Placed, db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS sales (number INTEGER)")
        db.execute("INSERT INTO sales VALUES (?)", (event.number,))
        if event.number == 1:
            if ending == "executescript":
                db.executescript("SELECT 1")
            elif ending.endswith("()"):
                getattr(db, ending[:-2])()
            else:
                db.execute(ending)

    async with app.running():
        await app.publish(*(Placed(order=str(n), number=n) for n in range(3)))
        await settled(app)
        (letter,) = await dead_letters(app, "book")
    assert letter.headers["deaderror"] == "TransactionEnded"
    assert rows(tmp_path, "SELECT number FROM sales ORDER BY number") == [(0,), (2,)]


async def test_sqlalchemy_sessions_are_in_the_same_transaction(app: App, tmp_path: Path) -> None:
    orm = pytest.importorskip("sqlalchemy.orm")
    text = pytest.importorskip("sqlalchemy").text

    def book(event, session):  # type: ignore[no-untyped-def]
        session.execute(text("CREATE TABLE IF NOT EXISTS sales (number INTEGER)"))
        session.execute(text("INSERT INTO sales VALUES (:number)"), {"number": event.number})
        session.commit()
        if event.number == 1:
            raise ValueError

    book.__annotations__ = {"event": Placed, "session": orm.Session}
    app.on(Placed, retry=NEVER)(book)
    async with app.running():
        await app.publish(*(Placed(order=str(n), number=n) for n in range(3)))
        await settled(app)
    assert rows(tmp_path, "SELECT number FROM sales ORDER BY number") == [(0,), (2,)]


async def test_rows_and_messages_of_an_async_handler_are_kept_together(app: App) -> None:
    stock = app.table("stock", int)

    @app.on(Placed, concurrency=8)
    async def reserve(event: Placed, tx: Tx) -> AsyncIterator[Low]:
        left = await tx.get(stock, "sku", 100) - 1
        await asyncio.sleep(0)  # others come in between: a row read before and written meanwhile is read again
        tx.put(stock, "sku", left)
        if left == 50:
            yield Low(sku="sku")

    heard: list[Low] = []

    @app.on(Low)
    async def hear(event: Low) -> None:
        heard.append(event)

    async with app.running():
        await app.publish(*(Placed(order=str(n)) for n in range(60)))
        await settled(app)
        await settled(app)
        assert app.connection is not None
        assert await app.connection.store.begin().get(stock, "sku") == 40
    assert heard == [Low(sku="sku")]


async def test_pause_and_resume(app: App) -> None:
    handled: list[int] = []

    @app.on(Placed)
    async def handle(event: Placed) -> None:
        handled.append(event.number)

    async with app.running():
        app.worker("handle").pause()
        await asyncio.sleep(0.05)
        await app.publish(Placed(order="o", number=1))
        await asyncio.sleep(0.1)
        late = list(handled)
        app.worker("shop.handle").resume()
        await settled(app)
    assert late in ([], [1])  # one fetch may have been under way
    assert handled == [1]


async def test_no_more_than_the_rate(app: App) -> None:
    times: list[float] = []

    @app.on(Placed, rate=50.0)
    async def handle(event: Placed) -> None:
        times.append(time.monotonic())

    async with app.running():
        await app.publish(*(Placed(order=str(n)) for n in range(60)))
        await settled(app)
    assert len(times) == 60
    assert max(sum(start <= t < start + 0.5 for t in times) for start in times) <= 25 + 50 + 2


class Patient(Clock):
    """Whoever lingers on it lingers until something happens."""

    async def linger(self, event: asyncio.Event, seconds: float) -> bool:
        return seconds > 0 and await event.wait()


async def test_acknowledgements_wait_a_moment_for_each_other_and_nothing_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PACE", 60.0)  # a moment that is not over on a slow machine
    heard: list[int] = []
    app = App("shop", url(tmp_path), clock=Patient())

    @app.on(Placed)
    async def hear(event: Placed) -> Low | None:
        heard.append(event.number)
        return Low(sku="last") if event.number == 3 else None

    async with app.running(), asyncio.timeout(60):
        for number, settled in ((1, 1), (2, 1), (3, 3)):
            await app.publish(Placed(order="a", number=number))
            while len(heard) < number or app.worker("hear").meter.handled < settled:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.005)
            assert app.worker("hear").meter.handled == settled


async def test_correlation_and_cause_travel_on(app: App) -> None:
    records: list[Record] = []

    @app.on(Placed)
    async def first(event: Placed) -> Low:
        return Low(sku="s")

    @app.on(Low)
    async def second(event: Low, delivery: Delivery) -> None:
        await app.publish(Paid(order="o"))

    @app.on("order", "stock")
    async def all_of_them(record: Record) -> None:
        records.append(record)

    async with app.running():
        await app.publish(Placed(order="o"), id="the-first")
        for _ in range(3):
            await settled(app)
    by_type = {record.type: record for record in records}
    low, paid = by_type["stock.low"], by_type["order.paid"]
    assert low.headers["correlationid"] == low.headers["causationid"] == "the-first"
    assert (paid.headers["correlationid"], paid.headers["causationid"]) == ("the-first", low.id)


async def test_what_was_begun_is_finished_and_the_rest_handed_back(tmp_path: Path) -> None:
    handled: list[int] = []

    def make() -> App:
        app = App("shop", url(tmp_path))

        @app.on(Placed, concurrency=1)
        async def handle(event: Placed) -> None:
            await asyncio.sleep(0.02)
            handled.append(event.number)

        return app

    app = make()
    async with app.running():
        await app.publish(*(Placed(order="o", number=n) for n in range(20)))
        await asyncio.sleep(0.1)
    before = len(handled)
    assert 0 < before < 20
    async with (again := make()).running():
        await settled(again)
    assert handled == list(range(20))


async def test_an_event_whose_worker_died_again_and_again_is_buried_unhandled(app: App, tmp_path: Path) -> None:
    handled: list[int] = []

    @app.on(Placed, retry=Retry(times=2, first=0.01), start=Start.EARLIEST)
    async def handle(event: Placed) -> None:
        handled.append(event.number)

    async with app:
        await app.publish(Placed(order="o", number=1), Placed(order="p", number=2))
        workers = await app.start()
        assert app.connection is not None
        await workers[0]._subscription.close()  # type: ignore[union-attr]
        write = sqlite3.connect(tmp_path / "tidings.db")
        write.execute(
            "INSERT INTO tidings_ack (feed, pos, part, state, tries, due, key) SELECT f.id, l.pos, l.part, 4, 3, 0, "
            "l.key FROM tidings_log l JOIN tidings_feed f ON f.topic = l.topic WHERE l.key = 'o'"
        )
        write.execute("UPDATE tidings_position SET pos = 1 WHERE pos < 1 AND feed = 1")
        write.commit()
        write.close()
    async with app.running():
        await settled(app)
        (letter,) = await dead_letters(app, "handle")
    assert letter.headers["deaderror"] == "AttemptsExhausted"
    assert handled == [2]


async def test_publishing_in_a_transaction_of_ones_own(app: App) -> None:
    stock = app.table("stock", int)
    heard: list[Low] = []

    @app.on(Low)
    async def hear(event: Low) -> None:
        heard.append(event)

    async with app.running():
        async with app.transaction() as tx:
            tx.put(stock, "sku", 5)
            tx.publish(Low(sku="kept"))
        with contextlib.suppress(ZeroDivisionError):
            async with app.transaction() as tx:
                tx.put(stock, "sku", 6)
                tx.publish(Low(sku="not kept"))
                _ = 1 / 0
        await settled(app)
        async with app.transaction() as tx:
            assert await tx.get(stock, "sku") == 5
    assert heard == [Low(sku="kept")]


async def test_an_event_published_twice_under_one_id_is_kept_once(app: App) -> None:
    heard: list[Placed] = []

    @app.on(Placed)
    async def hear(event: Placed) -> None:
        heard.append(event)

    async with app.running():
        for _ in range(2):
            await app.publish(Placed(order="o"), id="mine")
        await settled(app)
    assert len(heard) == 1


async def test_a_delayed_event_comes_when_it_is_due(app: App) -> None:
    heard = asyncio.Event()

    @app.on(Placed)
    async def hear(event: Placed) -> None:
        heard.set()

    async with app.running():
        began = time.time()
        await app.publish(Placed(order="o"), delay=0.2)
        async with asyncio.timeout(60):
            await heard.wait()
    assert time.time() - began >= 0.2


async def test_a_handler_that_holds_the_database_for_long_is_told_of_once(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.on(Placed)
    def slow(event: Placed, db: sqlite3.Connection) -> None:
        time.sleep(0.06)

    async with app.running():
        await app.publish(*(Placed(order=str(n)) for n in range(3)))
        await settled(app)
    assert [record.getMessage() for record in caplog.records if "held the database" in record.getMessage()] == [
        next(record.getMessage() for record in caplog.records if "shop.slow held the database" in record.getMessage())
    ]


async def test_views_of_several_topics_serve_each_in_turn(app: App) -> None:
    async with app:
        assert app.connection is not None
        view = await app.connection.broker.subscribe(["order", "stock"], None)
        await app.publish(*(Placed(order=str(n)) for n in range(4)), *(Low(sku=str(n)) for n in range(4)))
        topics = [delivery.record.topic for _ in range(4) for delivery in await view.fetch(1, 0.0)]
    assert topics == ["order", "stock", "order", "stock"]


async def test_a_topic_keeps_what_it_was_told_to_whoever_opens_the_file_later(tmp_path: Path) -> None:
    async with App("shop", url(tmp_path), keep=float("inf"), keep_count=5) as app:
        await app.publish(Placed(order="o"))
    async with App("other", url(tmp_path)) as other:
        await other.publish(Placed(order="o"), Low(sku="s"))
    kept = rows(tmp_path, "SELECT name, keep_seconds, keep_count FROM tidings_topic ORDER BY id")
    assert kept == [("order", float("inf"), 5), ("stock", 7 * 86400.0, None)]


@pytest.mark.parametrize("result", [5, "text", {"a": 1}, [Low(sku="s"), None]])
async def test_what_is_returned_and_is_no_event_is_buried_with_a_sentence(app: App, result: object) -> None:
    def odd(event):  # type: ignore[no-untyped-def]
        return result

    odd.__annotations__ = {"event": Placed}
    app.on(Placed, retry=NEVER)(odd)
    async with app.running():
        await app.publish(Placed(order="o"))
        await settled(app)
        (letter,) = await dead_letters(app, "odd")
    assert "a handler returns or yields events, or None" in letter.headers["deadcause"]
