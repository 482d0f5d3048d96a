"""OpenTelemetry spans, where a program has configured an SDK.

A trace goes from the publisher through each handler into what that publishes. Without an SDK nothing is installed and
nothing is paid; the headers of a trace that others began are carried on anyway.

The attribute names are those of the messaging semantic conventions, which are not stable: they are all in this file.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tidings.app import App
from tidings.broker import Delivery
from tidings.lane import current
from tidings.middleware import Next

UNSAMPLED = frozenset("02468ace")
"""How a traceparent ends whose lowest flag, "sampled", is not set."""

_handled: ContextVar[trace.SpanContext | None] = ContextVar("tidings_handled", default=None)
"""The span of the event that was handled last in this lane or thread: what it returned is encoded after its end."""


def install(app: App) -> bool:
    """Trace this app from here on, if the program has configured a provider of spans; to be called before it opens.

    Says whether it did. Each event becomes a span in the trace of its publisher, if that is sampled.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return False
    app.trace = headers
    app.middleware(Spans(trace.get_tracer("tidings")))
    return True


def headers() -> dict[str, str]:
    """The trace context of the current span, or of the one in which the current event was handled, as headers."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        handled = _handled.get()
        if handled is None:
            return {}
        context = handled
    carrier: dict[str, str] = {}
    span = trace.NonRecordingSpan(context)
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier


class Spans:
    """The middleware that makes a span around each event."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, delivery: Delivery, call_next: Next) -> Any:
        """Handle the event in a span whose parent is the publisher's; in none where that is not sampled."""
        record = delivery.record
        _handled.set(None)
        if record.headers.get("traceparent", "")[-1:] in UNSAMPLED:
            return await call_next()
        with self._tracer.start_as_current_span(
            f"process {record.topic}",
            self._propagator.extract(record.headers, Context()),
            trace.SpanKind.CONSUMER,
            attributes(delivery),
            record_exception=False,  # what it says may quote the payload
            set_status_on_exception=False,
        ) as span:
            _handled.set(span.get_span_context())
            try:
                return await call_next()
            except BaseException as error:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(trace.StatusCode.ERROR)
                raise


def attributes(delivery: Delivery) -> dict[str, str | int]:
    """What a span says of an event: never its payload."""
    record, lane = delivery.record, current.get()
    said: dict[str, str | int] = {
        "messaging.system": "tidings",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": record.topic,
        "messaging.message.id": record.id,
        "messaging.message.conversation_id": record.headers.get("correlationid", record.id),
        "messaging.message.body.size": len(record.value),
        "tidings.event.type": record.type,
        "tidings.attempt": delivery.attempt,
    }
    if lane is not None:
        said["messaging.consumer.group.name"] = lane.desk.bound.name
    return said
