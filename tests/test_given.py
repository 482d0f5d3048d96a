"""Specifications: what they say, and what they say when it is not so."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import msgspec
import pytest

import tidings.testing
from tidings import App, Event, HandlerTimeout, InvalidEvent, Retry, Tx
from tidings.testing import AnyOrder, Dead, Failed, Later, Row, Some, Sql, given


class Ordered(Event, name="order.created", key="order"):
    order: str
    items: dict[str, int] = msgspec.field(default_factory=lambda: {"x": 1})


class Low(Event, name="stock.low", key="sku"):
    sku: str
    left: int


class Told(Event, name="mail.told", key="order"):
    order: str
    text: str
    parts: list[tuple[str, int]] = msgspec.field(default_factory=list)


def app_of(shop: App) -> App:
    stock = shop.table("stock", int)

    @shop.on(Ordered, retry=Retry(times=2, first=60.0, factor=1.0, at_once=0))
    async def reserve(ordered: Ordered, tx: Tx) -> AsyncIterator[Low]:
        if not ordered.items:
            raise ValueError("nothing is ordered")
        for sku, quantity in ordered.items.items():
            left = await tx.get(stock, sku, 10) - quantity
            tx.put(stock, sku, left)
            if left < 9:
                yield Low(sku=sku, left=left)

    return shop


@pytest.fixture
def shop() -> App:
    return app_of(App("shop"))


async def message(specification: Awaitable[None]) -> list[str]:
    """What it says where it is not so, line by line."""
    with pytest.raises(AssertionError) as raised:
        await specification
    first, *lines = str(raised.value).splitlines()
    assert first == "not as specified"
    return lines


# -- what holds


async def test_the_past_is_handled_and_not_looked_at(shop: App) -> None:
    await (
        given(shop, Ordered(order="o1"), Ordered(order="o2"))
        .when(Ordered(order="o3"))
        .then(Low(sku="x", left=7), Row(shop.table("stock", int), "x", 7))
    )


async def test_each_begins_with_nothing(shop: App) -> None:
    for _ in range(2):
        await given(shop).when(Ordered(order="o1")).then(Row(shop.table("stock", int), "x", 9))
    assert shop.connection is None


async def test_nothing_comes_of_it(shop: App) -> None:
    await given(shop).when(Ordered(order="o1")).then()
    await given(shop).when().then()


async def test_rows_are_given_and_gone(shop: App) -> None:
    stock = shop.table("stock", int)
    await (
        given(shop, Row(stock, "x", 5), Row(stock, "y", 5), Row(stock, "y", None))
        .when(Ordered(order="o1"))
        .then(Low(sku="x", left=4), Row(stock, "x", 4), Row(stock, "y", None))
    )


async def test_sql_of_ones_own() -> None:
    books = App("books")

    @books.on(Ordered)
    def book(ordered: Ordered, db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO sales VALUES (?, ?)", (ordered.order, len(ordered.items)))

    await (
        given(books, Sql("CREATE TABLE sales (id TEXT, items INTEGER)"), Sql("INSERT INTO sales VALUES (?, 1)", "o0"))
        .when(Ordered(order="o1"), Ordered(order="o2", items={}))
        .then(
            Sql("SELECT * FROM sales ORDER BY id").says(("o0", 1), ("o1", 1), ("o2", 0)),
            Sql("SELECT id FROM sales WHERE items > ?", 7).says(),
        )
    )


async def test_several_apps_hear_each_other(shop: App) -> None:
    mail = App("mail")

    @mail.on(Low)
    async def tell(low: Low) -> Told:
        return Told(order="-", text=f"{low.left} left")

    await (
        given([shop, mail], Ordered(order="o1"))
        .when(Ordered(order="o2"))
        .then(Low(sku="x", left=8), Told(order="-", text="8 left"))
    )


async def test_one_handler_alone(shop: App) -> None:
    @shop.on(Ordered)
    async def confirm(ordered: Ordered) -> Told:
        return Told(order=ordered.order, text="yes")

    first = Ordered(order="o1", items={"x": 5})
    await given(shop, only=confirm).when(first).then(Told(order="o1", text="yes"))
    await given(shop, only="reserve").when(first).then(Low(sku="x", left=5))
    await given(shop, only="shop.reserve").when(first).then(Low(sku="x", left=5))
    await given(shop).when(first).then(AnyOrder(Told(order="o1", text="yes"), Low(sku="x", left=5)))
    assert [*shop.handlers] == ["shop.reserve", "shop.confirm"]


async def test_some_fields_and_any_others(shop: App) -> None:
    when = given(shop).when(Ordered(order="o1", items={"a": 2, "b": 3, "c": 4}))
    await when.then(Some(Low, sku="a"), Some(Low), Some(Low, left=6, sku="c"))
    await when.then(..., Some(Low, sku="c"))
    await when.then(Some(Low, sku="a"), ...)
    await when.then(..., Some(Low, sku="b"), ...)
    await when.then(...)
    await when.then(AnyOrder(Some(Low, sku="c"), Some(Low), Low(sku="b", left=7)))
    await when.then(Low(sku="a", left=8), AnyOrder(Some(Low, sku="c"), Some(Low, sku="b")))


async def test_any_order_finds_who_belongs_to_whom(shop: App) -> None:
    class Pair(Event, name="pair.made"):
        a: int
        b: int

    @shop.on(Low)
    async def make(low: Low) -> AsyncIterator[Pair]:
        yield Pair(a=1, b=2)
        yield Pair(a=1, b=3)

    when = given(shop, only=make).when(Low(sku="x", left=1))
    await when.then(AnyOrder(Some(Pair, a=1), Some(Pair, b=2)))
    assert await message(when.then(AnyOrder(Some(Pair, b=2), Some(Pair, b=2))))


async def test_time_passes() -> None:
    clerk = App("clerk")

    @clerk.on(Ordered)
    async def remind(ordered: Ordered) -> None:
        await clerk.publish(Told(order=ordered.order, text="still there?"), delay=3600.0)

    when = given(clerk, Ordered(order="o1")).when(Later(3599.0))
    await when.then()
    await given(clerk, Ordered(order="o1")).when(Later(3600.0)).then(Some(Told, order="o1"))
    await given(clerk, Ordered(order="o1"), Later(3600.0)).when(Later(3600.0)).then()


async def test_several_at_once_come_as_a_list() -> None:
    batch = App("batch")

    @batch.on(Ordered)
    async def count(orders: list[Ordered]) -> Told:
        return Told(order="-", text=str(len(orders)))

    orders = [Ordered(order=f"o{number}") for number in range(3)]
    await given(batch).when(orders).then(Told(order="-", text="3"))
    await given(batch).when(*orders).then(*[Told(order="-", text="1")] * 3)


async def test_what_is_given_up_on(shop: App) -> None:
    empty = Ordered(order="o1", items={})
    await given(shop).when(empty).then(Failed("reserve", ValueError, match="nothing"))
    await given(shop, empty).when(Later(60.0)).then(Failed("shop.reserve"))
    await given(shop).when(empty, Later(120.0)).then(Dead("reserve", ValueError, match="^nothing", attempts=3))
    await given(shop).when(empty, Later(120.0)).then(Dead("reserve", event=empty))
    await (
        given(shop)
        .when(empty, Ordered(order="o2", items={"x": 3}), Later(120.0), Ordered(order="o3", items={}))
        .then(Low(sku="x", left=7), Failed("reserve", ValueError), Dead("reserve", ValueError))
    )


async def test_a_failure_that_has_mended_itself_is_none(shop: App) -> None:
    tries: list[str] = []

    @shop.on(Low, retry=Retry(times=1, first=5.0, at_once=0))
    async def flaky(low: Low) -> Told:
        tries.append(low.sku)
        if len(tries) == 1:
            raise OSError("away")
        return Told(order="-", text="low")

    await given(shop, Low(sku="x", left=1)).when(Later(5.0)).then(Some(Told))


async def test_a_time_limit_ends_what_hangs(shop: App) -> None:
    @shop.on(Low, timeout=30.0, retry=Retry.NEVER)
    async def hang(low: Low) -> None:
        await asyncio.Event().wait()

    await given(shop).when(Low(sku="x", left=1), Later(31.0)).then(Dead(hang, HandlerTimeout))


def test_no_plugin_and_no_framework_is_needed(shop: App) -> None:
    asyncio.run(given(shop).when(Ordered(order="o1")).then())
    program = "import sys, tidings.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_all_that_is_public_is_in_the_tutorial() -> None:
    page = (Path(__file__).parents[1] / "docs" / "tutorial" / "4-testing.md").read_text()
    assert not [name for name in tidings.testing.__all__ if name not in page]


# -- what does not


async def test_fields_that_differ_are_named(shop: App) -> None:
    when = given(shop, Ordered(order="o1")).when(Ordered(order="o2", items={"x": 1, "y": 2}))
    assert await message(when.then(Low(sku="x", left=7), Low(sku="y", left=8))) == [
        "published:",
        "  differs     Low(sku='x', left=8)",
        "                left: expected 7, was 8",
        "  as expected Low(sku='y', left=8)",
    ]


async def test_fields_are_compared_deep_inside(shop: App) -> None:
    @shop.on(Low)
    async def tell(low: Low) -> Told:
        return Told(order="o1", text="low", parts=[("x", 1), ("y", 2)])

    when = given(shop).when(Low(sku="x", left=1))
    assert await message(when.then(Told(order="o1", text="low", parts=[("x", 1), ("y", 3)]))) == [
        "published:",
        "  differs     Told(order='o1', text='low', parts=[('x', 1), ('y', 2)])",
        "                parts[1][1]: expected 3, was 2",
    ]
    assert await message(when.then(Some(Told, text="high", parts=[]))) == [
        "published:",
        "  differs     Told(order='o1', text='low', parts=[('x', 1), ('y', 2)])",
        "                text: expected 'high', was 'low'",
        "                parts: expected [], was [('x', 1), ('y', 2)]",
    ]


async def test_keys_that_differ_are_named(shop: App) -> None:
    reports = shop.table("reports", dict[str, int])
    when = given(shop, Row(reports, "r", {"x": 1, "y": 2})).when()
    await when.then(Row(reports, "r", {"y": 2, "x": 1}))
    assert await message(when.then(Row(reports, "r", {"x": 2, "z": 2}))) == [
        "row 'r' of shop.reports: ['x']: expected 2, was 1",
        "row 'r' of shop.reports: ['z']: expected 2, was nothing",
        "row 'r' of shop.reports: ['y']: expected nothing, was 2",
    ]


async def test_many_events_are_not_all_shown(shop: App) -> None:
    items = {f"{number:03}": 2 for number in range(200)}
    right = [Low(sku=sku, left=8) for sku in items]
    when = given(shop).when(Ordered(order="o1", items=items))
    await when.then(*right)
    lines = await message(when.then(*right[:100], Told(order="-", text="half"), *right[100:]))
    assert lines[11:13] == ["  as expected and 90 more", "  missing     Told(order='-', text='half', parts=[])"]
    assert len(lines) == 1 + 11 + 1 + 11


async def test_what_is_missing_and_what_is_unexpected(shop: App) -> None:
    when = given(shop).when(Ordered(order="o1", items={"x": 5, "y": 5}))
    assert await message(when.then()) == [
        "published:",
        "  unexpected  Low(sku='x', left=5)",
        "  unexpected  Low(sku='y', left=5)",
    ]
    assert await message(when.then(Low(sku="y", left=5), Told(order="o1", text="ok"))) == [
        "published:",
        "  unexpected  Low(sku='x', left=5)",
        "  as expected Low(sku='y', left=5)",
        "  missing     Told(order='o1', text='ok', parts=[])",
    ]
    assert await message(when.then(Low(sku="y", left=5), Low(sku="x", left=5))) == [
        "published:",
        "  missing     Low(sku='y', left=5)",
        "  as expected Low(sku='x', left=5)",
        "  unexpected  Low(sku='y', left=5)",
    ]
    assert await message(when.then(..., Some(Told, order="o1"))) == [
        "published:",
        "  and         Low(sku='x', left=5)",
        "  and         Low(sku='y', left=5)",
        "  missing     Told(order='o1', ...)",
    ]
    assert await message(when.then(AnyOrder(Some(Told), Low(sku="y", left=5), Low(sku="x", left=5)))) == [
        "published:",
        "  as expected Low(sku='x', left=5)",
        "  as expected Low(sku='y', left=5)",
        "  missing     Told(...)",
    ]


async def test_an_event_of_an_unknown_class_is_shown(shop: App) -> None:
    @shop.on(Low)
    async def tell(low: Low):  # type: ignore[no-untyped-def]
        return Told(order="o1", text="low")

    assert await message(given(shop).when(Low(sku="x", left=1)).then()) == [
        "published:",
        """  unexpected  Unread(type='mail.told', body=b'{"order":"o1","text":"low","parts":[]}')""",
    ]


async def test_rows_and_sql_that_differ(shop: App) -> None:
    stock = shop.table("stock", int)
    when = given(shop).when(Ordered(order="o1"))
    assert await message(when.then(Row(stock, "x", 8), Row(stock, "y", 1), Sql("SELECT 1, 2").says((1, 3)))) == [
        "row 'x' of shop.stock: expected 8, was 9",
        "row 'y' of shop.stock: expected 1, was None",
        "SELECT 1, 2: [0][1]: expected 3, was 2",
    ]


async def test_a_failure_that_nobody_expected_is_the_cause(shop: App) -> None:
    when = given(shop).when(Ordered(order="o1", items={}))
    with pytest.raises(AssertionError) as raised:
        await when.then()
    assert str(raised.value).endswith(
        "unexpected: shop.reserve raised ValueError('nothing is ordered') on order.created (key 'o1'); "
        "it will be tried again"
    )
    assert isinstance(raised.value.__cause__, ExceptionGroup)
    assert [type(error) for error in raised.value.__cause__.exceptions] == [ValueError]


async def test_dead_letters_that_differ(shop: App) -> None:
    when = given(shop).when(Ordered(order="o1", items={}), Later(120.0))
    unexpected = (
        "unexpected: shop.reserve gave up on Ordered(order='o1', items={}) after 3 attempts: "
        "ValueError: nothing is ordered"
    )
    assert await message(when.then()) == [unexpected]
    assert await message(when.then(Dead("reserve", KeyError))) == [
        "missing: that reserve gave up because of KeyError",
        unexpected,
    ]
    assert await message(when.then(Dead("reserve", ValueError, attempts=2, match="x"))) == [
        "missing: that reserve gave up because of ValueError with match='x', attempts=2",
        unexpected,
    ]
    assert await message(when.then(Failed("reserve"), Dead("reserve"))) == ["missing: that reserve raised Exception"]


async def test_all_that_differs_is_said_together(shop: App) -> None:
    when = given(shop).when(Ordered(order="o1", items={}), Ordered(order="o2", items={"x": 4}))
    lines = await message(when.then(Low(sku="x", left=1), Row(shop.table("stock", int), "x", 1)))
    assert [line.split(":")[0].strip() for line in lines] == [
        "published",
        "differs     Low(sku='x', left=6)",
        "left",
        "row 'x' of shop.stock",
        "unexpected",
    ]


# -- what cannot be


async def test_a_handler_that_is_not_there(shop: App) -> None:
    with pytest.raises(AssertionError, match=r"there is no handler 'reverse'; there are: shop\.reserve"):
        await given(shop, only="reverse").when().then()
    assert [*shop.handlers] == ["shop.reserve"]


async def test_an_expected_event_that_cannot_be(shop: App) -> None:
    with pytest.raises(InvalidEvent, match="field left"):
        await given(shop).when().then(Low(sku="x", left="many"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Low has no field 'right'; it has sku, left"):
        Some(Low, right=1)


async def test_an_error_within_is_the_handlers_own(shop: App) -> None:
    @shop.on(Low, retry=Retry.NEVER)
    def fail(low: Low) -> Iterator[Told]:
        raise KeyError(low.sku)

    with pytest.raises(AssertionError) as raised:
        await given(shop).when(Low(sku="x", left=1)).then()
    assert "shop.fail gave up on Low(sku='x', left=1) after 1 attempts: KeyError: 'x'" in str(raised.value)
    assert raised.value.__cause__ is not None


# -- what is provided


class Rates:
    def __init__(self, percent: int) -> None:
        self.percent = percent


def real_rates() -> Iterator[Rates]:
    raise AssertionError("the real one was made")
    yield Rates(0)


def app_with_rates() -> App:
    app = App("rates")
    app.provide(real_rates)

    @app.on(Ordered)
    async def price(ordered: Ordered, rates: Rates) -> Told:
        return Told(order=ordered.order, text=f"{rates.percent} %")

    return app


async def test_a_dependency_is_replaced_by_its_type_and_the_real_one_is_not_made() -> None:
    app = app_with_rates()
    for percent in (7, 19):
        replaced = given(app, provide={Rates: Rates(percent)})
        await replaced.when(Ordered(order="o1")).then(Told(order="o1", text=f"{percent} %"))
    with pytest.raises(AssertionError, match="the real one was made"):
        await given(app).when(Ordered(order="o1")).then()


async def test_a_replacement_may_be_made_and_ended_as_what_it_replaces() -> None:
    ended: list[str] = []

    def made() -> Iterator[Rates]:
        yield Rates(3)
        ended.append("made")

    await given(app_with_rates(), provide={Rates: made}).when(Ordered(order="o1")).then(Told(order="o1", text="3 %"))
    assert ended == ["made"]
