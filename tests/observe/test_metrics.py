"""The figures against values worked out by hand."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import Counter as UsersCounter
from prometheus_client.parser import text_string_to_metric_families

from tidings import App, Event, Retry
from tidings.broker import Lag
from tidings.meter import SECONDS
from tidings.observe.lag import lags
from tidings.observe.metrics import cumulative, text


class Told(Event, name="thing.told", key="key"):
    key: str


class Heard(Event, name="thing.heard", key="key"):
    key: str


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(raw: bytes) -> Samples:
    """Each sample of tidings by name and labels, as Prometheus itself would read it."""
    families = list(text_string_to_metric_families(raw.decode()))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith("tidings_")
    }


def at(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """One with two handlers, whose workers do not run: the figures are set by hand."""
    app = App("shop", "memory:")

    @app.on(Told)
    async def first(event: Told) -> None: ...

    @app.on(Told)
    async def second(event: Told) -> None: ...

    async with app:
        await app.start()
        yield app


def test_counts_by_bucket_are_cumulative_and_end_with_all() -> None:
    counts = [0] * (len(SECONDS) + 1)
    counts[0], counts[2], counts[-1] = 3, 2, 1

    assert cumulative(counts)[:4] == [("0.0001", 3), ("0.00025", 3), ("0.0005", 5), ("0.001", 5)]
    assert cumulative(counts)[-2:] == [("60.0", 5), ("+Inf", 6)]


async def test_every_figure_is_as_worked_out_by_hand(app: App) -> None:
    first, second = (worker.meter for worker in app.workers)
    app.published["thing.told"] = 10
    first.published["thing.told"] += 2
    second.published["thing.heard"] += 5
    first.handled, first.skipped, first.retried, first.in_flight = 7, 3, 2, 4
    first.failed.update({"ValueError": 4, "KeyError": 1})
    first.dead["ValueError"] = 1
    for seconds in (0.0002, 0.0002, 0.03, 2.0, 100.0):
        first.handling.observe(seconds)
    first.latency.observe(0.0011)

    samples = read(text([app], {("shop.first", "thing"): Lag(12, 3.5)}))

    one = {"handler": "shop.first"}
    expected = {
        at("tidings_published_total", app="shop", type="thing.told"): 12,
        at("tidings_published_total", app="shop", type="thing.heard"): 5,
        at("tidings_handled_total", **one): 7,
        at("tidings_skipped_total", **one): 3,
        at("tidings_retried_total", **one): 2,
        at("tidings_in_flight", **one): 4,
        at("tidings_failed_total", **one, error="ValueError"): 4,
        at("tidings_failed_total", **one, error="KeyError"): 1,
        at("tidings_dead_total", **one, error="ValueError"): 1,
        at("tidings_handling_seconds_bucket", **one, le="0.0001"): 0,
        at("tidings_handling_seconds_bucket", **one, le="0.00025"): 2,
        at("tidings_handling_seconds_bucket", **one, le="0.025"): 2,
        at("tidings_handling_seconds_bucket", **one, le="0.05"): 3,
        at("tidings_handling_seconds_bucket", **one, le="2.5"): 4,
        at("tidings_handling_seconds_bucket", **one, le="60.0"): 4,
        at("tidings_handling_seconds_bucket", **one, le="+Inf"): 5,
        at("tidings_handling_seconds_count", **one): 5,
        at("tidings_handling_seconds_sum", **one): 102.0304,
        at("tidings_latency_seconds_bucket", **one, le="0.001"): 0,
        at("tidings_latency_seconds_bucket", **one, le="0.0025"): 1,
        at("tidings_latency_seconds_sum", **one): 0.0011,
        at("tidings_lag_events", **one, topic="thing"): 12,
        at("tidings_lag_seconds", **one, topic="thing"): 3.5,
        at("tidings_handled_total", handler="shop.second"): 0,
    }
    assert {key: samples[key] for key in expected} == pytest.approx(expected)


async def test_a_lag_that_is_unknown_is_absent(app: App) -> None:
    samples = read(text([app], {("shop.first", "thing"): Lag(None, None), ("shop.second", "thing"): Lag(0, 0.0)}))

    named = {dict(labels)["handler"] for name, labels in samples if name.startswith("tidings_lag")}
    assert named == {"shop.second"}


async def test_the_lag_of_a_broker_that_is_closed_is_absent(app: App) -> None:
    assert set(await lags([app])) == {("shop.first", "thing"), ("shop.second", "thing")}
    assert app.connection is not None
    await app.connection.broker.close()
    assert await lags([app]) == {}


async def test_a_lag_that_takes_too_long_is_absent(app: App) -> None:
    assert await lags([app], deadline=0.0) == {}


async def test_what_has_really_happened_is_counted() -> None:
    app = App("shop", "memory:")

    @app.on(Told, retry=Retry(times=1, first=0.01, at_once=1))
    async def handle(event: Told) -> Heard | None:
        if event.key == "bad":
            raise ValueError(event.key)
        return Heard(key=event.key)

    @app.on(Heard)
    def hear(event: Heard) -> None: ...

    async with app.running():
        await app.publish(*(Told(key=key) for key in ("a", "b", "c", "bad")))
        async with asyncio.timeout(60):
            while app.worker("hear").meter.handled < 7 or app.worker("handle").meter.handled < 7:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        samples = read(text([app], await lags([app])))

    handle_, hear_ = {"handler": "shop.handle"}, {"handler": "shop.hear"}
    expected: dict[Any, float] = {
        at("tidings_published_total", app="shop", type="thing.told"): 4,
        at("tidings_published_total", app="shop", type="thing.heard"): 3,
        at("tidings_failed_total", **handle_, error="ValueError"): 4,  # twice in the lane, and again after the delay
        at("tidings_retried_total", **handle_): 1,
        at("tidings_dead_total", **handle_, error="ValueError"): 1,
        at("tidings_handled_total", **handle_): 7,
        at("tidings_skipped_total", **handle_): 3,
        at("tidings_handled_total", **hear_): 7,
        at("tidings_skipped_total", **hear_): 4,
        at("tidings_in_flight", **handle_): 0,
        at("tidings_handling_seconds_count", **hear_): 3,
        at("tidings_latency_seconds_count", **hear_): 7,
        at("tidings_lag_events", **handle_, topic="thing"): 0,
    }
    assert {key: samples[key] for key in expected} == expected


async def test_metrics_of_the_program_itself_and_of_its_process_are_there_too(app: App) -> None:
    UsersCounter("users_own", "Of a user.").inc(3)
    raw = text([app], {})

    assert b"\nusers_own_total 3.0\n" in raw
    assert b"\nprocess_resident_memory_bytes " in raw
