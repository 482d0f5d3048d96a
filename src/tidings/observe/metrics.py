"""Prometheus text, made from plain counters when it is asked for: an event pays nothing for being counted.

All durations are in seconds. A lag that is unknown is absent, never 0. Processes are not added up here: each has its
own port, and Prometheus adds. What else a program registers with prometheus_client is in the text too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tidings.app import App
from tidings.meter import SECONDS, Histogram
from tidings.observe.lag import Lags
from tidings.worker import Worker

CONTENT_TYPE = CONTENT_TYPE_LATEST
BOUNDS = [*map(str, SECONDS), "+Inf"]


def text(apps: Sequence[App], lags: Lags) -> bytes:
    """The figures of these apps and of this process, for Prometheus. Safe from any thread."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Figures(apps, lags))
    return generate_latest(registry) + generate_latest(REGISTRY)


class Figures(Collector):
    """The meters of the apps' workers as metrics."""

    def __init__(self, apps: Sequence[App], lags: Lags) -> None:
        self._apps = apps
        self._workers = [worker for app in apps for worker in app.workers]
        self._lags = lags

    def collect(self) -> Iterable[Metric]:
        """Read everything."""
        yield self._published()
        yield self._count("handled", "Events settled: handled, skipped or given up.", lambda w: w.meter.handled)
        yield self._by_error("failed", "Tries of a handler that failed, by exception.", lambda w: w.meter.failed)
        yield self._count("retried", "Events handed back to be tried again later.", lambda w: w.meter.retried)
        yield self._by_error("dead", "Events that became dead letters, by exception.", lambda w: w.meter.dead)
        yield self._count("skipped", "Events on a handler's topics that it did not ask for.", lambda w: w.meter.skipped)
        yield self._in_flight()
        yield self._histogram("handling", "Seconds in the handler.", lambda worker: worker.meter.handling)
        yield self._histogram("latency", "Seconds from publish to settled.", lambda worker: worker.meter.latency)
        yield from self._lag()

    def _published(self) -> Metric:
        family = CounterMetricFamily("tidings_published", "Events published.", labels=["app", "type"])
        for app in self._apps:
            count = app.published.copy()
            for worker in app.workers:
                count.update(dict(worker.meter.published))
            for kind, value in count.items():
                family.add_metric([app.name, kind], value)
        return family

    def _count(self, name: str, what: str, read: Callable[[Worker], int]) -> Metric:
        family = CounterMetricFamily(f"tidings_{name}", what, labels=["handler"])
        for worker in self._workers:
            family.add_metric([worker.bound.name], read(worker))
        return family

    def _by_error(self, name: str, what: str, read: Callable[[Worker], Mapping[str, int]]) -> Metric:
        family = CounterMetricFamily(f"tidings_{name}", what, labels=["handler", "error"])
        for worker in self._workers:
            for error, value in dict(read(worker)).items():
                family.add_metric([worker.bound.name, error], value)
        return family

    def _in_flight(self) -> Metric:
        family = GaugeMetricFamily("tidings_in_flight", "Events lent and not yet settled.", labels=["handler"])
        for worker in self._workers:
            family.add_metric([worker.bound.name], worker.meter.in_flight)
        return family

    def _histogram(self, name: str, what: str, read: Callable[[Worker], Histogram]) -> Metric:
        family = HistogramMetricFamily(f"tidings_{name}_seconds", what, labels=["handler"])
        for worker in self._workers:
            histogram = read(worker)
            family.add_metric([worker.bound.name], cumulative(histogram.counts), histogram.sum)
        return family

    def _lag(self) -> Iterator[Metric]:
        labels = ["handler", "topic"]
        events = GaugeMetricFamily("tidings_lag_events", "Events not yet settled by the group.", labels=labels)
        seconds = GaugeMetricFamily("tidings_lag_seconds", "Age of the oldest of them.", labels=labels)
        for at, lag in self._lags.items():
            if lag.waiting is not None:
                events.add_metric(at, lag.waiting)
            if lag.oldest is not None:
                seconds.add_metric(at, lag.oldest)
        yield events
        yield seconds


def cumulative(counts: Sequence[int]) -> list[Any]:
    """Counts by bucket as Prometheus has them: each with all that are below its bound."""
    return list(zip(BOUNDS, accumulate(counts), strict=True))
