"""Specifications as they are meant."""

from collections.abc import AsyncIterator

from tidings import App, Event, Tx
from tidings.testing import AnyOrder, Dead, Failed, Later, Row, Some, Sql, given


class OrderPlaced(Event, name="order.placed", key="order"):
    order: str


class OrderShipped(Event, name="order.shipped", key="order"):
    order: str
    tracking: str


app = App("shop")
counts = app.table("counts", int)


@app.on(OrderPlaced)
async def ship(placed: OrderPlaced, tx: Tx) -> AsyncIterator[OrderShipped]:
    tx.put(counts, placed.order, 1)
    yield OrderShipped(order=placed.order, tracking="t")


async def test_shipping() -> None:
    placed = OrderPlaced(order="o1")
    await given(app, placed, [placed, placed], Later(60.0)).when(placed).then(OrderShipped(order="o1", tracking="t"))
    await given([app, app], Row(counts, "o1", 5), only=ship).when([placed]).then(..., Some(OrderShipped, order="o1"))
    await (
        given(app, Sql("CREATE TABLE sales (id TEXT)"), only="ship")
        .when(placed, Later(3600.0), Row(counts, "o1", None))
        .then(
            AnyOrder(OrderShipped(order="o1", tracking="t"), Some(OrderShipped)),
            Row(counts, "o1", 1),
            Sql("SELECT id FROM sales").says(("o1",)),
            Dead(ship, ValueError, match="no", event=placed, attempts=3),
            Failed("ship", ValueError),
        )
    )
