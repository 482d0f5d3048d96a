"""The broker contract as a suite that any adapter can be run against, without a test framework.

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[Server]:          # a new, empty place for each check
        yield Server(connect=lambda: opened(MyBroker(url)), clock=Clock())

    report = await contract.run(make, MyBroker.features)
    assert report.kept, str(report)

or, with pytest, one test a check:

    @pytest.mark.parametrize("check", contract.checks(MyBroker.features), ids=lambda check: check.name)
    async def test_contract(check: Check) -> None:
        async with make() as server:
            await check.run(server)

A check is left out only where it needs a feature that the adapter does not claim, or wants done to the server what its
`Server` does not offer: a member in another process, a restart, a cut connection.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from tidings.broker import Feature
from tidings.clock import Clock
from tidings.testing.checks import (
    cancelling,
    crowds,
    delaying,
    groups,
    members,
    outages,
    processes,
    records,
    seeking,
    settling,
    transactions,
)
from tidings.testing.checks.server import Check, Server

__all__ = ["Check", "Report", "Result", "Server", "checks", "run"]

SUBJECTS = (records, groups, settling, members, crowds, processes, outages, delaying, seeking, cancelling, transactions)
WANTS = ("silence", "config", "restart", "kill", "cut", "remove")
"""What a Server may offer, and some checks want."""
LIMIT = 120.0
"""Real seconds for one check."""

Make = Callable[[], AbstractAsyncContextManager[Server]]


class Result(NamedTuple):
    """What came of a check: the error that tells how the promise was broken, or None."""

    check: Check
    error: Exception | None
    seconds: float


class Report(NamedTuple):
    """What came of a run."""

    results: list[Result]

    @property
    def broken(self) -> list[Result]:
        """The checks that failed."""
        return [result for result in self.results if result.error is not None]

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken

    def __str__(self) -> str:
        lines = [f"{len(self.results) - len(self.broken)} of {len(self.results)} promises are kept"]
        for result in self.broken:
            told = "".join(traceback.format_exception_only(result.error)).strip()
            lines += [f"- {result.check.name}: {result.check.promise}", f"  {told}"]
        return "\n".join(lines)


def checks(features: Feature, able: Collection[str] = ("silence",)) -> list[Check]:
    """The checks that a broker with these features has to pass, on a Server that offers what is named in `able`."""
    every = [value for subject in SUBJECTS for value in vars(subject).values() if isinstance(value, Check)]
    return [check for check in every if check.needs in features and check.wants in ("", *able)]


async def run(make: Make, features: Feature, *, names: Collection[str] = (), limit: float = LIMIT) -> Report:
    """Run the checks (those of these names, or all) on a server each; `limit` in seconds for one."""
    chosen = [check for check in checks(features, WANTS) if not names or check.name in names]
    results = [await _run(check, make, limit) for check in chosen]
    return Report([result for result in results if result is not None])


async def _run(check: Check, make: Make, limit: float) -> Result | None:
    clock = Clock()
    began = clock.monotonic()
    error: Exception | None = None
    try:
        async with asyncio.timeout(limit), make() as server:
            if check.wants and getattr(server, check.wants) is None:
                return None
            await check.run(server)
    except Exception as problem:  # noqa: BLE001 - whatever a check raises is its result
        error = problem
    return Result(check, error, clock.monotonic() - began)
