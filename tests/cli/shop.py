"""A small service that commands are tried on: it keeps what it handles, and gives up on what is marked as bad."""

import asyncio

from tidings import App, Event, Retry, Start


class Placed(Event, name="order.placed", key="order_id"):
    order_id: str
    total: int
    bad: str = ""


class Low(Event, name="stock.low"):
    sku: str


HANDLER = "shop.ship"


def shop(shipped: list[Placed] | None = None) -> App:
    """The service, which has not run yet; what it ships is appended to `shipped`."""
    app = App("shop")

    @app.on(Placed, retry=Retry(times=0), start=Start.EARLIEST)
    async def ship(order: Placed) -> None:
        if order.bad:
            raise {"key": KeyError, "value": ValueError}.get(order.bad, RuntimeError)(
                f"order {order.total}: {order.bad}"
            )
        if shipped is not None:
            shipped.append(order)

    return app


app = shop()


def publish(*events: Event) -> None:
    """Tell these to nobody in particular."""

    async def tell() -> None:
        async with App("teller") as teller:
            await teller.publish(*events)

    asyncio.run(tell())


def work(*events: Event) -> list[Placed]:
    """Publish these and let the shop work until nothing is left; returns what it shipped."""
    shipped: list[Placed] = []
    app = shop(shipped)

    async def run() -> None:
        async with app.running():
            await app.publish(*events)
            await settled(app)

    asyncio.run(run())
    return shipped


async def settled(app: App, handler: str = HANDLER, topic: str = "order") -> None:
    """Wait until a handler has handled all that is on its topic, and all that was replayed."""
    assert app.connection is not None
    for name in (topic, f"replay.{handler}"):
        while (await app.connection.broker.lag(name, handler)).waiting:  # noqa: ASYNC110 - it happens in a file
            await asyncio.sleep(0.01)
