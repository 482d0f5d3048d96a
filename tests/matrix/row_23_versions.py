"""23: two versions of a service at once on one file, as during a rolling deploy or its undoing.

The versions are two states of the app's code (`versions/`) on this release. Two releases of tidings at once will be
the same row with `Site.start(python=...)`: the interpreter of an environment in which the last release's wheel is
installed. There is no release yet.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.matrix import Figures, Row
from tests.matrix.site import Effect, Site, Worker, doubled, inversions
from tests.matrix.versions import new, old

KEYS = 32
OLD, NEW = old.__name__, new.__name__
LINGER = 0.3


class Deploy:
    """Publishes with both versions while their workers come and go."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.placed = 0
        self.shipped = 0
        self.over = False

    async def phase(self, *start: str, stop: tuple[Worker, ...] = ()) -> list[Worker]:
        """Events of both versions, while these modules start and those workers end."""
        self.over = False
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell())
            started = [await self.site.start(module=module) for module in start]
            for worker in stop:
                assert await worker.stop() == 0
            await asyncio.sleep(LINGER)
            self.over = True
        return started

    async def _tell(self) -> None:
        async with self.site.publisher() as before, self.site.publisher() as after:
            while not self.over:
                numbers = range(self.placed, self.placed + 16)
                await before.publish(*(old.Ordered(key=f"k{n % KEYS}", number=n) for n in numbers))
                numbers = range(self.placed + 16, self.placed + 32)
                await after.publish(*(new.Ordered(key=f"k{n % KEYS}", number=n, channel="web") for n in numbers))
                shipped = range(self.shipped, self.shipped + 16)
                await after.publish(*(new.Shipped(key=f"k{n % KEYS}", number=n) for n in shipped))
                self.placed += 32
                self.shipped += 16
                await asyncio.sleep(0.02)


async def run(folder: Path) -> Figures:
    async with Site(folder, "") as site:
        deploy = Deploy(site)
        first = await deploy.phase(OLD, OLD)
        second = await deploy.phase(NEW)
        third = await deploy.phase(NEW, stop=(first[0],))
        await deploy.phase(OLD, stop=(second[0],))  # and back again
        await deploy.phase(NEW, stop=(first[1], third[0]))
        await site.drained()
        effects = site.effects()
        assert not [letter for name in ("book", "follow") for letter in site.letters(f"shop.{name}")]
    return judged(deploy, effects)


def judged(deploy: Deploy, effects: list[Effect]) -> Figures:
    accounts = {"book": deploy.placed, "follow placed": deploy.placed, "follow shipped": deploy.shipped}
    lost = again = inverted = 0
    for account, count in accounts.items():
        mine = [each for each in effects if each.handler.startswith(account)]
        numbers = [each.number for each in mine]
        lost += count - len(set(numbers))
        again += doubled(numbers)
        inverted += inversions([each.number for each in mine if each.key == f"k{key}"] for key in range(KEYS))
    by_old, by_new = ([e for e in effects if e.handler.startswith(f"book by {version}")] for version in ("old", "new"))
    assert lost == again == inverted == 0
    assert by_old
    assert {each.handler.partition(", ")[2] for each in by_new} == {"unknown", "web"}
    return {
        "events": deploy.placed + deploy.shipped, "handled by the old version": len(by_old), "by the new one":
        len(by_new), "lost": lost, "duplicate effects": again, "inversions": inverted, "dead letters": 0,
    }  # fmt: skip


ROW = Row(
    "23",
    "two versions of a service at once on one file, there and back: a new field with a default, a new type on the "
    "topic, a new handler (of the app's code; of tidings itself as soon as there is a release before this one)",
    "the old code ignores the field and skips the type; the new one fills in the default; nothing is lost or dead. A "
    "new type belongs into a new handler: an old process of a handler that is only extended would skip it",
    run,
)
