"""21: payloads and headers that break parsers: too large, too deep, not text, not JSON.

Each payload goes all four ways: `app.publish`, `tidings publish` with and without `--app`, and bytes on the topic
through the broker. Whoever checks says the same of it: it is handled, or it is refused or a dead letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import msgspec

from tests.matrix import Figures, Row
from tests.matrix.site import Site, effect
from tidings import App, Event, InvalidEvent, Record, Start
from tidings.cli import main

SUITE = Path(__file__).parents[3] / "shared" / "conformance" / "jsontestsuite" / "test_parsing"
LIMIT = 1 << 20
HUGE = 100 << 20
MEMORY = 512.0
ENVELOPE = len(b'{"body":""}')


class Posted(Event, name="post.posted"):
    body: Any


app = App("shop")


@app.on(Posted, start=Start.EARLIEST)
def book(posted: Posted, db: sqlite3.Connection) -> None:
    effect(db, "book", "", 0)


class Case(NamedTuple):
    """A payload. `handled`: whether it has to be, None where either will do if all ways agree."""

    name: str
    body: bytes
    handled: bool | None = False
    every_way: bool = True


def wrapped(body: bytes) -> bytes:
    return b'{"body":' + body + b"}"


def own() -> list[Case]:
    """What is known to break parsers, and what only looks like it."""
    deep = 100_000
    text = {
        "wrong charset": b'"caf\xe9"', "overlong UTF-8": b'"\xc0\xaf"', "lone surrogate": b'"\\ud800"',
        "encoded surrogate": b'"\xed\xa0\x80"', "NUL, raw": b'"\x00"', "too large a number": b"1e400",
        "not a number": b"NaN", "infinity": b"-Infinity", "deep list": b"[" * deep + b"]" * deep,
        "deep object": b'{"a":' * deep + b"1" + b"}" * deep, "unclosed": b"[" * deep,
    }  # fmt: skip
    harmless = {
        "NUL, escaped": b'"\\u0000"', "minus zero": b"-0.0", "duplicate keys": b'{"a":1,"a":2}',
        "emoji": b'"\\ud83d\\ude00"', "a small number": b"1e-400", "digits": b"1" * 400 + b".0e-399",
        "spaces": b" " * 1000 + b"1",
    }  # fmt: skip
    return [
        *(Case(name, wrapped(body)) for name, body in text.items()),
        *(Case(name, wrapped(body), handled=True) for name, body in harmless.items()),
        Case("BOM", b"\xef\xbb\xbf" + wrapped(b"1")),
        Case("UTF-16", wrapped(b"1").decode().encode("utf-16")),
        Case("nothing", b""),
        Case("limit - 1", wrapped(b'"' + b"x" * (LIMIT - ENVELOPE - 1) + b'"'), handled=True),
        Case("limit", wrapped(b'"' + b"x" * (LIMIT - ENVELOPE) + b'"'), handled=True),
        Case("limit + 1", wrapped(b'"' + b"x" * (LIMIT - ENVELOPE + 1) + b'"')),
    ]


def suite() -> list[Case]:
    """JSONTestSuite, where it lies beside the project: what it calls y_ is handled, n_ is not, i_ may be either."""
    if not SUITE.is_dir():
        return []
    handled = {"y": True, "n": False, "i": None}
    paths = sorted(SUITE.iterdir())
    return [
        Case(path.name, wrapped(path.read_bytes()), handled[path.name[0]], every_way=number % 6 == 0)
        for number, path in enumerate(paths)
    ]


class Paths:
    """The ways in. Each says whether a payload was taken."""

    def __init__(self, site: Site, publisher: App) -> None:
        self.site = site
        self.publisher = publisher
        self.slowest = 0.0

    async def take(self, case: Case) -> dict[str, bool]:
        """Every way but the topic. Most of JSONTestSuite without the commands: they open the database each time."""
        ways = {"publish": await self.published(case)}
        if case.every_way:
            ways["command"] = await self.commanded(case)
            ways["command --app"] = await self.commanded(case, "--app", f"{__name__}:app")
        return ways

    async def published(self, case: Case) -> bool:
        """By an app that has the payload as it is."""
        if not (case.body.startswith(b'{"body":') and case.body.endswith(b"}")):
            return False  # an app cannot even say it
        began = time.monotonic()
        try:
            await self.publisher.publish(Posted(body=msgspec.Raw(case.body[8:-1])))
        except InvalidEvent:
            self.slowest = max(self.slowest, time.monotonic() - began)
            return False
        return True

    async def commanded(self, case: Case, *options: str) -> bool:
        """By the command, in a thread: a process for each would take minutes."""
        file = self.site.folder / "payload"
        file.write_bytes(case.body)
        began = time.monotonic()
        code, said = await asyncio.to_thread(
            command, "publish", "post.posted", f"@{file}", f"--broker={self.site.url}", *options
        )
        assert code in (0, 1, 2), (case.name, code, said)
        assert "Traceback" not in said
        if code:
            self.slowest = max(self.slowest, time.monotonic() - began)
        return code == 0

    async def on_the_topic(self, cases: Sequence[Case]) -> dict[str, bool]:
        """Bytes that no codec has seen: refused by the broker, or handled or buried by the worker."""
        assert self.publisher.connection is not None
        refused = set()
        for case in cases:
            record = Record("post", case.body, None, "post.posted", f"raw-{case.name}", time.time())
            try:
                await self.publisher.connection.broker.publish([record])
            except InvalidEvent:
                refused.add(case.name)
        await self.site.drained()
        buried = {letter.headers["originid"].removeprefix("raw-") for letter in self.site.letters("shop.book")}
        return {case.name: case.name not in refused | buried for case in cases}


def command(*arguments: str) -> tuple[int, str]:
    """A command in this process."""
    said = io.StringIO()
    with (
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        mock.patch("sys.argv", ["tidings", *arguments]),
    ):
        try:
            main()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None), said.getvalue()
    return 0, said.getvalue()


async def payloads(site: Site, publisher: App) -> Figures:
    cases = [*own(), *suite()]
    paths = Paths(site, publisher)
    verdicts = {case.name: await paths.take(case) for case in cases}
    topic = await paths.on_the_topic(cases)
    for case in cases:
        ways = {**verdicts[case.name], "topic": topic[case.name]}
        assert len(set(ways.values())) == 1, f"{case.name}: {ways}"
        assert case.handled in (None, ways["topic"]), f"{case.name}: {ways}"
    return {
        "payloads": len(cases),
        "of JSONTestSuite": len(cases) - len(own()),
        "told apart by the way they came": 0,
        "slowest refusal, s": paths.slowest,
    }


async def huge(site: Site, publisher: App) -> None:
    """100 MB, every way: refused before anything is written."""
    case = Case("100 MB", wrapped(b'"' + b"x" * HUGE + b'"'))
    paths = Paths(site, publisher)
    before = site.rows("SELECT count(*) FROM tidings_log")
    assert set((await paths.take(case)).values()) == {False}
    assert set((await paths.on_the_topic([case])).values()) == {False}
    assert site.rows("SELECT count(*) FROM tidings_log") == before


async def headers(site: Site, publisher: App) -> int:
    """Of any length and number: they are the sender's business; those that are no text are refused."""
    assert publisher.connection is not None
    broker = publisher.connection.broker
    before = len(site.effects())
    for name, given in {
        "64 KB": {"x": "y" * 65_536}, "10,000": {f"x{n}": "y" for n in range(10_000)}, "NUL": {"x": "\0"},
    }.items():  # fmt: skip
        await broker.publish([Record("post", wrapped(b"1"), None, "post.posted", f"headers-{name}", 1.0, given)])
    refused = 0
    for field in ("key", "id", "type", "header"):
        bad: dict[str, Any] = {"headers": {"x": "\ud800"}} if field == "header" else {field: "\ud800"}
        record = {"topic": "post", "value": wrapped(b"1"), "id": f"bad-{field}", "type": "post.posted", "time": 1.0}
        try:
            await broker.publish([Record(**{**record, **bad})])
        except InvalidEvent:
            refused += 1
    await site.drained()
    assert len(site.effects()) == before + 3
    return refused


async def run(folder: Path) -> Figures:
    async with Site(folder, __name__) as site, site.publisher() as publisher:
        worker = await site.start()
        figures = await payloads(site, publisher)
        await huge(site, publisher)
        refused = await headers(site, publisher)
        peak = worker.peak()
        assert peak < MEMORY
        assert await worker.stop() == 0
    return {**figures, "attributes that are no text, refused": refused, "memory of the worker, MB, peak": peak}


ROW = Row(
    "21",
    "payloads at the limit, one byte over it and of 100 MB; 100,000 deep; not UTF-8, NUL, lone surrogates, BOM, 1e400, "
    "-0, duplicate keys; JSONTestSuite; 64 KB in a header, 10,000 headers",
    "the same verdict every way in: handled, or refused with a sentence, or a dead letter; the worker lives",
    run,
)
