"""What must happen around every message: `async (delivery, call_next) -> outcome`.

A middleware awaits `call_next()` once (or not at all, to drop the message as handled) and returns what came of it: the
messages to be published. The chain is built when the worker starts; a handler without middleware pays nothing.
Around a `def` handler, which runs in a thread, it may await nothing but `call_next()`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tidings.broker import Delivery
from tidings.errors import HandlerError

Outcome = Any
Next = Callable[[], Awaitable[Outcome]]
Middleware = Callable[[Delivery, Next], Awaitable[Outcome]]
Call = Callable[[Any, Delivery, Any], Awaitable[Outcome]]


def chain(middleware: Sequence[Middleware], call: Call, *, in_thread: bool = False) -> Call:
    """`call` inside all of `middleware`, the first one outermost. `in_thread`: `call` is that of a `def` handler."""
    for layer in reversed(middleware):
        call = _around_def(layer, call) if in_thread else _around(layer, call)
    return call


def _around(layer: Middleware, inner: Call) -> Call:
    def call(message: Any, delivery: Delivery, tx: Any) -> Awaitable[Outcome]:
        return layer(delivery, lambda: inner(message, delivery, tx))

    return call


def _around_def(layer: Middleware, inner: Call) -> Call:
    """A `def` handler runs in a thread, where no event loop is and nothing can be waited for but the handler itself."""

    def call(message: Any, delivery: Delivery, connection: Any) -> Outcome:
        async def call_next() -> Outcome:
            return inner(message, delivery, connection)

        running: Any = layer(delivery, call_next)
        try:
            running.send(None)
        except StopIteration as done:
            return done.value
        running.close()
        raise HandlerError(
            "A middleware waited for something else than call_next() around a def handler, which runs in a thread "
            "without an event loop. Make the handler async def, or the middleware not wait."
        )

    return call
