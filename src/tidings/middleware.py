"""What must happen around every message: `async (delivery, call_next) -> outcome`.

A middleware awaits `call_next()` once (or not at all, to drop the message as handled) and returns what came of it: the
messages to be published. The chain is built when the worker starts; a handler without middleware pays nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tidings.broker import Delivery

Outcome = Any
Next = Callable[[], Awaitable[Outcome]]
Middleware = Callable[[Delivery, Next], Awaitable[Outcome]]
Call = Callable[[Any, Delivery, Any], Awaitable[Outcome]]


def chain(middleware: Sequence[Middleware], call: Call) -> Call:
    """`call` inside all of `middleware`, the first one outermost."""
    for layer in reversed(middleware):
        call = _around(layer, call)
    return call


def _around(layer: Middleware, inner: Call) -> Call:
    def call(message: Any, delivery: Delivery, tx: Any) -> Awaitable[Outcome]:
        return layer(delivery, lambda: inner(message, delivery, tx))

    return call
