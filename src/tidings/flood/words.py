"""A flood in words: whether all is well, how much came and went, a row for each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tidings.cli.moment import span
from tidings.cli.output import counted
from tidings.flood.figures import WHOLE, Figures, HandlerStage, Stage

HEAD = ("stage", "events", "p50", "p90", "p99", "p99.9", "max", "most lag", "grows at", "retried", "dead")
LATE = 0.05
"""Seconds behind its times from which on the publisher's own lateness is worth a word."""


def duration(seconds: float | None) -> str:
    """For people: 0.8 ms, 12 ms, 1.5 s; `-` for None."""
    if seconds is None:
        return "-"
    return (
        f"{seconds * 1000:.2g} ms"
        if seconds < 0.01
        else f"{seconds * 1000:.0f} ms"
        if seconds < 1
        else f"{seconds:.3g} s"
    )


def verdict(figures: Figures) -> str:
    """One sentence: all is well, or what is not."""
    troubles = [
        (sum(figures.refused.values()), "refused when they were published"),
        (figures.lost, "lost"),
        (figures.dead, "dead letters"),
        (figures.left, "left waiting"),
    ]
    said = [f"{count:,} {what}" for count, what in troubles if count]
    said += [f"a worker ended with {how} {counted(count, 'time')}" for how, count in figures.deaths.items()]
    return f"Not well: {', '.join(said)}." if said else f"All {figures.events:,} events were kept and settled."


def summary(figures: Figures) -> Iterator[str]:
    """What came, what was done, what it could not keep up with, what to make of the figures."""
    yield (
        f"{counted(figures.events, 'event')} in {span(figures.seconds)} ({figures.offered:,.0f}/s, {figures.arrival}), "
        f"{counted(figures.workers, 'worker')}; done {figures.done:,.0f}/s on average, {figures.done_most:,.0f}/s at "
        f"best; the last {span(figures.drained)} after the last arrival."
    )
    yield grown(figures)
    if figures.arrival == "spike":
        yield (
            "Lag was not as low again as before the spike."
            if figures.recovered is None
            else f"Lag was as low as before {duration(figures.recovered)} after the end of the spike."
        )
    for stage in figures.handlers:
        for error, count in stage.dead.items():
            yield f"Dead in {stage.name}: {count:,} x {error}: {stage.causes[error]}"
    if figures.deaths and figures.lost:
        yield "What a worker had just settled when it died may be counted as lost: it died before it could note it."
    if figures.late > LATE:
        yield (
            f"The publisher itself was late, by {duration(figures.late)} (p99): that is in all latencies. "
            "This machine does not offer that rate any better."
        )


def grown(figures: Figures) -> str:
    """Where lag begins to grow."""
    grows, name = figures.grows, figures.grows_first
    if grows is None:
        return "Lag did not grow."
    where = "the whole" if name == WHOLE else name
    held = "from the start" if grows.held is None else f"not yet at {grows.held:,.0f}/s"
    return (
        f"Lag grows from {span(grows.second)} on, at {grows.rate:,.0f} events/s ({held}), first at {where}, which does "
        f"{grows.done:,.0f}/s meanwhile."
    )


def rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    """A row for each stage, as HEAD names its cells."""
    yield (*_row(figures.publish), "", refused(figures.refused))
    for stage in figures.handlers:
        yield (*_row(stage), str(stage.retried or "-"), dead(stage))
    yield (*_row(figures.whole), "", "")


def _row(stage: Stage) -> Iterator[str]:
    latency, grows = stage.latency, stage.grows
    yield stage.name
    yield f"{stage.events:,}"
    if latency is None:
        yield from "-----"
    else:
        yield from map(duration, (latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max))
    yield f"{stage.lag_most:,}"
    yield "-" if grows is None else f"{grows.rate:,.0f}/s"


def refused(errors: Mapping[str, int]) -> str:
    """What publishing came to, where it failed."""
    return ", ".join(f"{count:,} {error}" for error, count in errors.items())


def dead(stage: HandlerStage) -> str:
    """What died of what, was lost or waits."""
    said = [f"{count:,} {error}" for error, count in stage.dead.items()]
    said += [f"{count:,} {what}" for count, what in ((stage.lost, "lost"), (stage.left, "left")) if count]
    return ", ".join(said) or "-"
