import ast
import asyncio
import importlib
import sqlite3
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from examples.shop import apps, audit, inventory, mail, orders, payment, recommendations, sales, shipping
from examples.shop.history import PastCancellation, PastOrder, read_orders
from tidings import Delivery, Event, Record, Retry, Tx
from tidings.cli.letters import letters
from tidings.cli.target import connected
from tidings.embedded.catalog import Catalog
from tidings.message import contract_of
from tidings.retry import rule_for
from tidings.runtime import Runtime
from tidings.stores.sqlite import SqliteSql

FOLDER = Path(audit.__file__).parent
SERVICES = [app.name for app in apps]
PLACED = datetime(1997, 1, 1, tzinfo=UTC)
INVOICES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,A,a lantern,3,12/1/10 8:26,2.55,17850,United Kingdom
1,B,a bird house,12,12/1/10 8:26,1.25,17850,United Kingdom
2,A,a lantern,130,12/1/10 8:30,2.10,13047,France
3,A,a lantern,1,12/1/10 8:31,3.00,,United Kingdom
C4,A,a lantern,-2,12/1/10 9:00,2.55,17850,United Kingdom
C5,D,a discount,-1,12/1/10 9:41,27.50,14527,United Kingdom
"""


def modules() -> dict[str, Any]:
    return {name: importlib.import_module(f"examples.shop.{name}") for name in SERVICES}


def delivery(attempt: int = 1) -> Delivery:
    return Delivery(Record("order", b"{}"), attempt, 1)


@pytest.fixture
def db() -> Iterator[SqliteSql]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield SqliteSql(connection)
    connection.close()


@asynccontextmanager
async def tx_of(app: Any) -> AsyncIterator[Tx]:
    app.settings["broker"] = "memory:"
    async with app, app.transaction() as transaction:
        yield transaction.tx


# -- that they know each other only by events


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_imports_another(service: str) -> None:
    tree = ast.parse((FOLDER / f"{service}.py").read_text())
    own = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level}
    assert own <= {"history"}


def test_what_a_service_hears_another_tells_with_these_fields() -> None:
    known = {(name, cls) for name, module in modules().items() for cls in vars(module).values() if is_event(cls)}
    told = {contract_of(cls).name: (service, cls) for service, cls in known if contract_of(cls).key}
    assert len(told) == len([cls for _, cls in known if contract_of(cls).key]), "two services tell the same"
    heard = {(app.name, cls) for app in apps for handler in app.handlers.values() for cls in handler.sources}
    for service, cls in heard:
        assert isinstance(cls, type)
        teller, original = told[contract_of(cls).name]
        assert teller == service or f"Heard from {teller}." in (cls.__doc__ or "")
        assert cls.__annotations__.items() <= original.__annotations__.items()


def is_event(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Event) and thing is not Event


# -- what each of them does


def test_an_order_of_the_past_is_placed_under_its_own_id() -> None:
    past = PastOrder(order_id="o-1", customer="7", placed=PLACED, items={"cd-1": 2}, total=Decimal("29.33"))
    event = orders.OrderPlaced(order_id="o-1", customer="7", placed=PLACED, items={"cd-1": 2}, total=Decimal("29.33"))
    assert orders.today(past) == ("o-1", event)


def test_a_cancellation_of_the_past_follows_its_order() -> None:
    past = PastCancellation(
        cancellation_id="C2", order_id="1", customer="7", placed=PLACED, items={"A": 1}, total=Decimal("2.55")
    )
    id, event = orders.today(past)
    assert id == "C2"
    assert isinstance(event, orders.OrderCancelled)
    assert (event.order_id, event.cancellation_id, event.items) == ("1", "C2", {"A": 1})


async def test_after_a_refused_card_the_customer_gives_another() -> None:
    refused = orders.CardRefused(order_id="o-1", customer="7", total=Decimal(5))
    assert await orders.offer_card(refused) == orders.CardGiven(order_id="o-1", customer="7", total=Decimal(5))


def test_a_sent_order_is_closed(db: SqliteSql) -> None:
    orders.close([orders.ParcelSent(order_id="o-1"), orders.ParcelSent(order_id="o-2")], db)
    assert db.execute("SELECT id FROM orders_closed") == [("o-1",), ("o-2",)]


def ordered(id: str, **items: int) -> inventory.OrderPlaced:
    return inventory.OrderPlaced(order_id=id, items=items)


def stock(db: SqliteSql) -> dict[str, int]:
    return dict(db.execute("SELECT sku, pieces FROM inventory_stock"))


def test_stock_goes_out_with_orders_and_comes_back_with_cancellations(db: SqliteSql) -> None:
    back = inventory.OrderCancelled(cancellation_id="C1", items={"A": 2})
    assert not list(inventory.move([ordered("1", A=3, B=1), ordered("2", A=1), back], db))
    assert stock(db) == {"A": inventory.FULL - 2, "B": inventory.FULL - 1}
    assert db.execute("SELECT id, taken FROM inventory_moves") == [("1", 4), ("2", 1), ("C1", -2)]


def test_stock_that_becomes_low_is_told_once_and_filled(db: SqliteSql) -> None:
    assert list(inventory.move([ordered("1", A=95)], db)) == [inventory.StockLow(sku="A", left=5)]
    assert not list(inventory.move([ordered("2", A=10)], db)), "it is on its way already"
    low = inventory.StockLow(sku="A", left=5)
    inventory.restock(low, db)
    inventory.restock(low, db)
    assert stock(db) == {"A": inventory.FULL}
    assert db.execute("SELECT * FROM inventory_deliveries") == [("A", 105)]


def test_what_is_paid_is_sent(db: SqliteSql) -> None:
    paid = shipping.PaymentTaken(order_id="o-1", customer="7")
    assert shipping.send(paid, db) == shipping.ParcelSent(order_id="o-1", customer="7")
    assert db.execute("SELECT id FROM shipping_parcels") == [("o-1",)]


def test_sales_are_exact_to_the_cent_and_cancellations_correct_them(db: SqliteSql) -> None:
    sold = [
        sales.OrderPlaced(order_id=str(number), placed=PLACED, items={"A": 1}, total=Decimal("0.10"))
        for number in range(30)
    ]
    back = sales.OrderCancelled(cancellation_id="C1", placed=PLACED, items={"A": 1}, total=Decimal("0.07"))
    sales.book([*sold, back], db)
    assert db.execute("SELECT sum(cds), sum(cents) FROM sales") == [(29, 293)]
    assert db.execute("SELECT DISTINCT month FROM sales") == [("1997-01",)]


async def settled(event: Any, attempt: int = 1) -> Any:
    async with tx_of(payment.app) as tx:
        return await payment.settle(event, payment.Bank(), tx, delivery(attempt))


def lot(modulus: int, rest: int, prefix: str = "o") -> str:
    """The id of an order that draws this lot and no other."""
    return next(
        id for id in (f"{prefix}-{number}" for number in range(9999)) if zlib.crc32(id.encode()) % modulus == rest
    )


async def test_a_charge_is_booked_and_told() -> None:
    order = payment.OrderPlaced(order_id="o-1", customer="7", total=Decimal("9.99"))
    async with tx_of(payment.app) as tx:
        taken = await payment.settle(order, payment.Bank(), tx, delivery())
        booking = await tx.get(payment.bookings, "o-1")
    assert taken == payment.PaymentTaken(order_id="o-1", customer="7", total=Decimal("9.99"))
    assert booking is not None
    assert (booking.amount, booking.times) == (Decimal("9.99"), 1)


async def test_a_booking_that_is_made_twice_shows() -> None:
    async with tx_of(payment.app) as tx:
        await payment.book(tx, "o-1", Decimal(1))
        await payment.book(tx, "o-1", Decimal(1))
        booking = await tx.get(payment.bookings, "o-1")
    assert booking is not None
    assert booking.times == 2


async def test_a_refused_card_is_an_answer_and_another_card_is_taken() -> None:
    id = lot(500, 1)
    order = payment.OrderPlaced(order_id=id, customer="7", total=Decimal(9))
    assert await settled(order) == payment.CardRefused(order_id=id, customer="7", total=Decimal(9))
    card = payment.CardGiven(order_id=id, customer="7", total=Decimal(9))
    assert await settled(card) == payment.PaymentTaken(order_id=id, customer="7", total=Decimal(9))


async def test_a_bank_that_does_not_answer_is_asked_again_later() -> None:
    order = payment.OrderPlaced(order_id=lot(400, 0), customer="7", total=Decimal(9))
    with pytest.raises(payment.Unreachable) as raised:
        await settled(order)
    rule = rule_for(payment.app.handlers["payment.settle"].options.retry, raised.value)
    assert rule.pause(0, 0.5) is None
    assert rule.delay(1, 0.5) == 0.5
    assert isinstance(await settled(order, attempt=2), payment.PaymentTaken)


async def test_what_is_cancelled_is_paid_back() -> None:
    back = payment.OrderCancelled(order_id="1", cancellation_id="C1", customer="7", total=Decimal(3))
    async with tx_of(payment.app) as tx:
        paid = await payment.settle(back, payment.Bank(), tx, delivery(attempt=2))
        booking = await tx.get(payment.bookings, "C1")
    assert paid == payment.RefundPaid(order_id="1", cancellation_id="C1", customer="7", total=Decimal(3))
    assert booking is not None
    assert booking.amount == Decimal(-3)


async def test_a_letter_is_written_for_each_occasion() -> None:
    async with tx_of(mail.app) as tx:
        for event in (
            mail.ParcelSent(order_id="o-1", customer="7"),
            mail.CardRefused(order_id="o-1", customer="7"),
            mail.RefundPaid(cancellation_id="C1", customer="7"),
        ):
            await mail.write(event, mail.Server(), tx, delivery(attempt=2))
        letters = [await tx.get(mail.letters, id) for id in ("o-1", "card for o-1", "C1")]
    assert [letter.times for letter in letters if letter is not None] == [1, 1, 1]


async def test_without_an_address_no_letter_is_tried_again() -> None:
    async with tx_of(mail.app) as tx:
        with pytest.raises(mail.NoAddress) as raised:
            await mail.write(mail.ParcelSent(order_id="o-1", customer=""), mail.Server(), tx, delivery())
    assert rule_for(mail.app.handlers["mail.write"].options.retry, raised.value) is Retry.NEVER


def bought(id: str, customer: str, *titles: str) -> recommendations.OrderPlaced:
    return recommendations.OrderPlaced(order_id=id, customer=customer, items=dict.fromkeys(titles, 1))


async def test_customers_like_you_have_also_bought() -> None:
    async with tx_of(recommendations.app) as tx:
        await recommendations.recommend([bought("1", "ann", "A", "B"), bought("2", "bob", "A", "B", "C")], tx)
        await recommendations.recommend([bought("3", "cid", "A")], tx)
        shown = await tx.get(recommendations.advice, "3")
        first = await tx.get(recommendations.advice, "1")
    assert shown is not None
    assert shown.titles == ["B", "C"], "both have B, one has C"
    assert first is not None
    assert first.titles == []


async def test_nobody_is_shown_what_they_have() -> None:
    async with tx_of(recommendations.app) as tx:
        await recommendations.recommend(
            [bought("1", "ann", "A", "B"), bought("2", "bob", "B"), bought("3", "bob", "A")], tx
        )
        shown = await tx.get(recommendations.advice, "3")
    assert shown is not None
    assert shown.titles == []


async def test_what_recommendations_remember_is_bounded() -> None:
    crowd = [bought(str(n), f"c{n % 3}", "A", *(f"t{n}-{k}" for k in range(30))) for n in range(20)]
    async with tx_of(recommendations.app) as tx:
        await recommendations.recommend(crowd, tx)
        company = await tx.get(recommendations.company, "A", default=[])
        owned = await tx.get(recommendations.owned, "c1", default=[])
    assert len(company) <= recommendations.COMPANY
    assert len(owned) == recommendations.OWNED


# -- all of them together


def waiting(catalog: Catalog) -> int:
    groups = [
        (handler.name, contract_of(source).topic)
        for app in apps for handler in app.handlers.values() for source in handler.sources if isinstance(source, type)
    ]  # fmt: skip
    return sum(catalog.lag(topic, group, 0.0).waiting or 0 for group, topic in groups)


async def replayed(path: Path, past: list[PastOrder | PastCancellation]) -> None:
    """Run all services until nothing is left to do."""
    runtime = Runtime(apps, broker=f"sqlite:{path}?durable=no")
    await runtime.open()
    try:
        runtime.start()
        for each in past:
            id, event = orders.today(each)
            await orders.app.publish(event, id=id)
        with Catalog(path) as catalog:
            quiet = 0
            while quiet < 2:
                await asyncio.sleep(0.05)
                quiet = 0 if waiting(catalog) else quiet + 1
        await runtime.drain(5.0)
    finally:
        await runtime.close()


@asynccontextmanager
async def audited(path: Path) -> AsyncIterator[audit.Audit]:
    async with connected(f"sqlite:{path}") as connection:
        books = audit.Audit(connection.store)
        await books.open()
        yield books


async def test_orders_and_cancellations_have_each_effect_once(tmp_path: Path) -> None:
    (tmp_path / "invoices.csv").write_text(INVOICES)
    past = list(read_orders(tmp_path / "invoices.csv"))
    path = tmp_path / "shop.db"
    await replayed(path, past)
    async with audited(path) as books:
        for service in audit.ON_ORDER:
            wanted = dict.fromkeys([id for id, services in map(audit.due, past) if service in services], 1)
            if service == "mail":
                del wanted["3"]  # a guest, whom nobody can write to
            assert await books.times(service, wanted | {"3": 1}) == wanted
        assert await books.sales() == audit.Sales(143, Decimal("266.05"))
        assert (await books.trace("1")).keys() == set(audit.ON_ORDER)
    with Catalog(path) as catalog:
        (dead,) = letters(catalog)
        assert (dead.handler, dead.record.key, dead.error) == ("mail.write", "3", "NoAddress")
        left = dict(catalog.connection.execute("SELECT sku, pieces FROM inventory_stock"))
        delivered = catalog.connection.execute("SELECT sum(quantity) FROM inventory_deliveries").fetchone()[0]
    assert left["A"] == inventory.FULL + delivered - (3 + 130 + 1 - 2)


async def test_orders_that_are_placed_again_change_nothing(tmp_path: Path) -> None:
    past = list(islice(read_orders(), 150))
    path = tmp_path / "shop.db"
    await replayed(path, past)
    await replayed(path, past)
    async with audited(path) as books:
        for service in audit.ON_ORDER:
            assert set((await books.times(service, [each.order_id for each in past])).values()) == {1}
        assert (await books.sales()).dollars == sum(each.total for each in past)


async def test_before_the_first_order_the_books_are_empty(tmp_path: Path) -> None:
    async with audited(tmp_path / "shop.db") as books:
        assert await books.closed() == 0
        assert await books.sales() == audit.Sales(0, Decimal(0))
        assert await books.times("shipping", ["o-1"]) == {}
        assert await books.trace("o-1") == {}
