"""What must not get past a type checker when handlers are specified."""

from tidings import App, Event
from tidings.testing import AnyOrder, Dead, Later, Row, Some, given


class OrderPlaced(Event, name="order.placed", key="order"):
    order: str


app = App("shop")
counts = app.table("counts", int)
placed = OrderPlaced(order="o1")


async def test_what_cannot_be() -> None:
    await given(app).when(OrderPlaced).then()  # E: incompatible type "type[OrderPlaced]"
    await given(app).when(placed).then(OrderPlaced)  # E: incompatible type "type[OrderPlaced]"
    await given(app).when(Dead("ship")).then()  # E: incompatible type "Dead"
    await given(app).when(placed).then(Later(60.0))  # E: incompatible type "Later"
    await given(placed).when(placed).then()  # E: incompatible type "OrderPlaced"
    await given(app).when(Some(OrderPlaced)).then()  # E: incompatible type "Some[OrderPlaced]"
    await given(app, Row(counts, "o1", "five")).when().then()  # E: Cannot infer value of type parameter "V"
    AnyOrder(Row(counts, "o1", 5))  # E: incompatible type "Row[int]"
    Some(int)  # E: Value of type variable "E" of "Some" cannot be "int"
    Dead("ship", "ValueError")  # E: incompatible type "str"
    given(app).then(placed)  # E: has no attribute "then"
