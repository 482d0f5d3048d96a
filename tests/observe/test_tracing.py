"""A trace from the publisher through a handler into what the handler publishes."""

import json
import logging
import sqlite3

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tests.observe.waiting import until
from tidings import App, Delivery, Event, Retry
from tidings.observe import tracing
from tidings.observe.logs import Json


class Ordered(Event, name="order.ordered", key="key"):
    key: str


class Paid(Event, name="payment.paid", key="key"):
    key: str


class Shipped(Event, name="shipment.shipped", key="key"):
    key: str


Use = tuple[trace.Tracer, InMemorySpanExporter]


def configure(monkeypatch: pytest.MonkeyPatch, provider: TracerProvider) -> Use:
    """Make this the process's provider, for one test: OpenTelemetry itself lets it be set once."""
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return provider.get_tracer("test"), exporter


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Use:
    return configure(monkeypatch, TracerProvider())


def shop(seen: list[dict[str, str]]) -> App:
    """Ordered -> (async def) Paid -> (def, in the transaction) Shipped -> (def, in a thread)."""
    app = App("shop", "memory:")

    @app.on(Ordered)
    async def pay(event: Ordered) -> Paid:
        return Paid(key=event.key)

    @app.on(Paid)
    def ship(event: Paid, db: sqlite3.Connection) -> Shipped:
        return Shipped(key=event.key)

    @app.on(Shipped)
    def tell(event: Shipped, delivery: Delivery) -> None:
        seen.append(dict(delivery.record.headers))

    return app


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent(span: ReadableSpan) -> tuple[int, int] | None:
    return (span.parent.trace_id, span.parent.span_id) if span.parent else None


async def test_a_trace_goes_from_the_publisher_through_every_handler(sdk: Use) -> None:
    tracer, exporter = sdk
    app = shop([])
    assert tracing.install(app)

    async with app.running():
        with tracer.start_as_current_span("request"):
            await app.publish(Ordered(key="a"), id="id-1")
        await until(lambda: len(exporter.get_finished_spans()) == 4)

    spans = by_name(exporter)
    chain = [spans[name] for name in ("request", "process order", "process payment", "process shipment")]
    assert parent(chain[0]) is None
    assert [parent(span) for span in chain[1:]] == [ids(span) for span in chain[:-1]]

    span = chain[1]
    assert span.kind is trace.SpanKind.CONSUMER
    assert dict(span.attributes or {}) == {
        "messaging.system": "tidings",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "order",
        "messaging.consumer.group.name": "shop.pay",
        "messaging.message.id": "id-1",
        "messaging.message.conversation_id": "id-1",
        "messaging.message.body.size": len(b'{"key":"a"}'),
        "tidings.event.type": "order.ordered",
        "tidings.attempt": 1,
    }


async def test_a_trace_that_is_not_sampled_makes_no_span_and_is_carried_on(sdk: Use) -> None:
    _, exporter = sdk
    seen: list[dict[str, str]] = []
    app = shop(seen)
    tracing.install(app)
    unsampled = trace.SpanContext(0xA, 0xB, is_remote=True, trace_state=trace.TraceState([("vendor", "x")]))

    async with app.running():
        with trace.use_span(trace.NonRecordingSpan(unsampled)):
            await app.publish(Ordered(key="a"))
        await until(lambda: seen)

    assert seen[0]["traceparent"] == f"00-{0xA:032x}-{0xB:016x}-00"
    assert seen[0]["tracestate"] == "vendor=x"
    assert not exporter.get_finished_spans()


async def test_a_sampler_that_says_no_is_obeyed_for_all_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    _, exporter = configure(monkeypatch, TracerProvider(sampler=ALWAYS_OFF))
    seen: list[dict[str, str]] = []
    app = shop(seen)
    tracing.install(app)

    async with app.running():
        await app.publish(Ordered(key="a"))
        await until(lambda: seen)

    assert seen[0]["traceparent"][-1] in "02468ace", "the sampled flag is not set"
    assert not exporter.get_finished_spans()


async def test_a_failure_is_an_error_without_what_the_exception_says(sdk: Use) -> None:
    _, exporter = sdk
    app = App("shop", "memory:")

    @app.on(Ordered, retry=Retry.NEVER)
    async def fail(event: Ordered) -> None:
        raise ValueError(f"cannot take {event.key}")

    tracing.install(app)
    async with app.running():
        await app.publish(Ordered(key="the payload"))
        await until(exporter.get_finished_spans)

    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert "the payload" not in span.to_json()


async def test_events_of_a_lane_do_not_inherit_each_others_trace(sdk: Use) -> None:
    tracer, exporter = sdk
    app = shop([])
    tracing.install(app)

    async with app.running():
        with tracer.start_as_current_span("request"):
            await app.publish(Ordered(key="a"))
        await until(lambda: len(exporter.get_finished_spans()) == 4)
        exporter.clear()
        await app.publish(Ordered(key="a"))
        await until(lambda: len(exporter.get_finished_spans()) == 3)

    assert parent(by_name(exporter)["process order"]) is None


async def test_log_lines_in_a_span_have_its_trace_id(sdk: Use) -> None:
    tracer, exporter = sdk
    lines: list[str] = []
    app = App("shop", "memory:")

    @app.on(Ordered)
    async def handle(event: Ordered) -> None:
        lines.append(Json().format(logging.makeLogRecord({"msg": "handling"})))

    tracing.install(app)
    async with app.running():
        await app.publish(Ordered(key="a"))
        await until(exporter.get_finished_spans)
    with tracer.start_as_current_span("request"):
        lines.append(Json().format(logging.makeLogRecord({"msg": "requesting"})))

    spans = by_name(exporter)
    expected = [f"{ids(spans[name])[0]:032x}" for name in ("process order", "request")]
    assert [json.loads(line)["trace_id"] for line in lines] == expected


async def test_without_an_sdk_nothing_is_installed_and_headers_are_carried_anyway() -> None:
    seen: list[dict[str, str]] = []
    app = shop(seen)

    assert not tracing.install(app)
    assert app.trace is None
    async with app.running():
        assert app.worker("pay").plain is not None, "no middleware: the fast path"
        app.trace = None
        await app.publish(Ordered(key="a"))
        await until(lambda: seen)
    assert "traceparent" not in seen[0]
