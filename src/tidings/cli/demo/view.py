"""What one sees of the demo: each service's figures, one order on its way, what befell the workers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tidings.cli.demo.play import NEWS, Play
from tidings.cli.demo.worker import Figures
from tidings.meter import SECONDS

EVERY = 0.25
"""Seconds between two pictures."""
WINDOW = 13
"""Pictures over which rates and latencies are taken."""
LAG_EVERY = 4
"""Pictures between two looks at what is waiting."""
REMEMBERED = 4
"""Pictures after the first kill: then one sees best what it does."""
STAY = 3.0
"""Seconds for which an order stays to be seen when it is done."""


TREE = 42
"""Columns for the order that is followed."""
WIDTH = 110
"""Columns of a picture that is saved."""
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


class Moment(NamedTuple):
    """The figures of each service at one time."""

    at: float
    figures: dict[str, Figures]


class Followed(NamedTuple):
    """An order on its way: when it was placed, and when each service has done its part."""

    order: Any
    placed: float
    done: Mapping[str, float]


class View:
    """Draws a play. `remembered` is the picture soon after the first kill, or the last one before it."""

    def __init__(self, play: Play, pace: str) -> None:
        self.remembered: RenderableType = Text()
        self._play = play
        self._pace = pace
        self._services = [app.name for app in play.shop.apps]
        self._moments: deque[Moment] = deque(maxlen=WINDOW)
        self._waiting: dict[str, int] = {}
        self._followed: Followed | None = None
        self._looks = 0
        self._since_kill = 0

    async def look(self) -> None:
        """Take in how things stand."""
        if self._looks % LAG_EVERY == 0:
            self._waiting = await self._play.waiting()
        self._looks += 1
        self._moments.append(Moment(time.monotonic(), by_service(self._play.crew.figures)))
        await self._follow()

    async def _follow(self) -> None:
        followed, latest = self._followed, self._play.feed.latest
        if followed is not None and len(followed.done) < len(self._services):
            self._followed = followed._replace(done=await self._play.audit.trace(followed.order.order_id))
        elif latest is not None and (followed is None or time.time() > max(followed.done.values()) + STAY):
            self._followed = Followed(*latest, done={})

    def draw(self) -> RenderableType:
        """The picture as it is now."""
        below = Table.grid(padding=(0, 4))
        below.add_column(width=TREE)
        below.add_row(self._order(), self._news())
        parts = [self._head(), self._table(), below]
        drawn = Panel(Group(*parts), title="tidings demo", title_align="left", border_style="cyan", padding=(1, 2))
        if self._play.crew.kills == 0 or self._since_kill < REMEMBERED:
            self.remembered = drawn
            self._since_kill += self._play.crew.kills > 0
        return drawn

    def _head(self) -> RenderableType:
        feed, total = self._play.feed, len(self._play.feed.past)
        head = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None):
            head.add_column(ratio=ratio)
        count = Text.assemble((f"{feed.sent:,}", "bold"), f" of {total:,} in")
        head.add_row(count, ProgressBar(max(total, 1), feed.sent), f"{self._pace}   {clock(self._play.elapsed)}")
        return head

    def _table(self) -> RenderableType:
        table = Table(box=SIMPLE_HEAD, expand=True, pad_edge=False)
        table.add_column("service", style="bold")
        table.add_column("workers")
        for name in ("events/s", "waiting", "p50", "p99", "failures", "retries", "dead"):
            table.add_column(name, justify="right")
        for service in self._services:
            table.add_row(service, self._workers(service), *self._figures(service))
        return table

    def _workers(self, service: str) -> Text:
        hands = self._play.crew.at(service)
        return Text("  ").join(
            Text(hand.name, "green") if hand.ready.is_set() else Text(hand.name, "bold red strike") for hand in hands
        )

    def _figures(self, service: str) -> Sequence[str | Text]:
        first, last = self._moments[0], self._moments[-1]
        now, before = last.figures.get(service), first.figures.get(service)
        if now is None:
            return ["-"] * 7
        rate = (now.handled - (before.handled if before else 0)) / max(last.at - first.at, EVERY)
        fresh = [new - old for new, old in zip(now.latency, before.latency, strict=True)] if before else now.latency
        waiting = self._waiting.get(service, 0)
        return [
            f"{rate:,.0f}", Text(f"{waiting:,}", "yellow" if waiting > max(rate, 100) else ""),
            duration(quantile(fresh, 0.5)), duration(quantile(fresh, 0.99)),
            marked(now.failed, "yellow"), marked(now.retried, "yellow"), marked(now.dead, "red"),
        ]  # fmt: skip

    def _order(self) -> RenderableType:
        """An order and what becomes of it, along the way that it takes."""
        if self._followed is None:
            return Tree(Text("no order yet", "dim"))
        order, placed, done = self._followed
        title = f"{sum(order.items.values()):,} pieces, {order.total} dollars"
        tree = Tree(Text.assemble((order.order_id, "bold"), "  ", title), guide_style="dim")
        after = self._play.shop.audit.AFTER
        branches: dict[str | None, Tree] = {None: tree}
        for service in sorted(self._services, key=lambda service: (depth(service, after), service in after.values())):
            at = done.get(service)
            if at is None:
                label = Text(f"\N{MIDDLE DOT} {service}", "dim")
            else:
                label = Text.assemble((f"\N{CHECK MARK} {service}", "green"), f"  {duration(at - placed)}")
            branches[service] = branches[after.get(service)].add(label)
        return tree

    def _news(self) -> RenderableType:
        lines = [Text.assemble((f"{clock(at)}  ", "dim"), what) for at, what in self._play.news]
        return Group(*lines, *[Text()] * (NEWS - len(lines)))


@contextlib.asynccontextmanager
async def shown(view: View, console: Console) -> AsyncGenerator[None]:
    """The picture is on the terminal while the block lasts, and kept up."""
    await view.look()
    with Live(view.draw(), console=console, auto_refresh=False) as live:

        async def keep_up() -> None:
            while True:
                await asyncio.sleep(EVERY)
                await view.look()
                live.update(view.draw(), refresh=True)

        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(keep_up())
            try:
                yield
            finally:
                keeping.cancel()


def save(drawn: RenderableType, path: Path) -> None:
    """The picture as SVG, without fonts from elsewhere."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH)
    console.print(drawn)
    svg = console.export_svg(title="tidings demo")
    path.write_text(FONT_FACE.sub("", svg), encoding="utf-8")


def depth(service: str, after: Mapping[str, str]) -> int:
    """How many services an order has passed before it comes to this one."""
    return 1 + depth(after[service], after) if service in after else 0


def by_service(handlers: Mapping[str, Figures]) -> dict[str, Figures]:
    """The figures of handlers, summed for each app."""
    summed: dict[str, Figures] = {}
    for name, figures in handlers.items():
        service = name.partition(".")[0]
        summed[service] = summed[service] + figures if service in summed else figures
    return summed


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The duration below which this share of a histogram lies, in seconds; None where it is empty."""
    bounds = (0.0, *SECONDS, SECONDS[-1])
    wanted = share * sum(counts)
    for index, seen in enumerate(accumulate(counts)):
        if seen >= wanted > 0:
            inside = 1 - (seen - wanted) / counts[index]
            return bounds[index] + inside * (bounds[index + 1] - bounds[index])
    return None


def duration(seconds: float | None) -> str:
    """For people: 3 ms, 0.4 s; `-` for None."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def marked(count: int, style: str) -> Text:
    """A count that catches the eye where it is not 0."""
    return Text(f"{count:,}", style if count else "dim")
