"""Mail: writes to customers when their goods are on their way, their card is refused or their money comes back.

Like the bank, the mail server is outside of every transaction: after a crash a letter may go out again.
"""

import time
import zlib

from msgspec import Struct

from tidings import App, Delivery, Event, Retry, Tx

app = App("mail")


class ParcelSent(Event, name="parcel.sent"):
    """Heard from shipping."""

    order_id: str
    customer: str


class CardRefused(Event, name="card.refused"):
    """Heard from payment."""

    order_id: str
    customer: str


class RefundPaid(Event, name="refund.paid"):
    """Heard from payment."""

    cancellation_id: str
    customer: str


class Busy(Exception):
    """The server asks to try again later."""


class NoAddress(Exception):
    """Nobody knows whom to write to; no other try will change that."""


class Server:
    """Stands in for a mail server: at the first attempt it is too busy for one letter in 300, the same in every run."""

    async def send(self, customer: str, text: str, *, attempt: int) -> None:
        """Take the letter. Raises Busy or NoAddress."""
        if not customer:
            raise NoAddress(f"no customer is named for: {text}")
        if attempt == 1 and zlib.crc32(text.encode()) % 300 == 0:
            raise Busy(f"try again later: {text}")


class Letter(Struct, frozen=True):
    """A letter that was sent; how often, which should be once."""

    text: str
    times: int
    at: float


app.provide(Server())
letters = app.table("letters", Letter)


@app.on(ParcelSent, CardRefused, RefundPaid, retry={Busy: Retry(at_once=0, first=0.5), NoAddress: Retry.NEVER})
async def write(event: ParcelSent | CardRefused | RefundPaid, server: Server, tx: Tx, delivery: Delivery) -> None:
    """Write to the customer. Without an address it becomes a dead letter at once."""
    id, text = letter(event)
    await server.send(event.customer, text, attempt=delivery.attempt)
    before = await tx.get(letters, id)
    tx.put(letters, id, Letter(text, before.times + 1 if before else 1, time.time()))


def letter(event: ParcelSent | CardRefused | RefundPaid) -> tuple[str, str]:
    """The id of a letter, and what it says."""
    match event:
        case ParcelSent(order_id=id):
            return id, f"Your order {id} is on its way."
        case RefundPaid(cancellation_id=id):
            return id, f"You get your money back: {id}."
        case CardRefused(order_id=id):
            return f"card for {id}", f"Your card was refused: please give us another one for {id}."
