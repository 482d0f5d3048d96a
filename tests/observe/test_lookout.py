"""What a process says of itself over HTTP, from its start to its end."""

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.observe.waiting import until
from tidings import App, Event
from tidings.errors import ConfigError
from tidings.observe.lookout import Lookout, Watch
from tidings.runtime import Runtime


class Told(Event, name="thing.told", key="key"):
    key: str


def watch(port: int | None = 0) -> Watch:
    return Watch(stall=0.2, stall_exit=False, grace=5, port=port)


async def get(lookout: Lookout, path: str) -> tuple[int, str]:
    def read() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{lookout.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(read)


async def ready(lookout: Lookout) -> tuple[int, Any]:
    status, body = await get(lookout, "/readyz")
    return status, json.loads(body)["reasons"]


@pytest.fixture
def app() -> App:
    app = App("shop", "memory:")

    @app.on(Told)
    async def handle(event: Told) -> None: ...

    return app


async def test_readiness_follows_the_life_of_the_process(app: App) -> None:
    stop = asyncio.Event()
    async with Lookout([app], watch(), stop) as lookout:
        assert await ready(lookout) == (503, ["starting: not all handlers listen yet"])
        runtime = Runtime([app])
        await runtime.open()
        runtime.start()
        lookout.attach(runtime)
        assert await ready(lookout) == (200, [])

        await app.publish(Told(key="a"))
        await until(lambda: app.worker("handle").meter.handled)
        status, figures = await get(lookout, "/metrics")
        assert status == 200
        assert 'tidings_handled_total{handler="shop.handle"} 1.0\n' in figures
        assert 'tidings_lag_events{handler="shop.handle",topic="thing"} 0.0\n' in figures

        stop.set()
        assert await ready(lookout) == (503, ["draining: it takes no more events and finishes those it has"])
        assert (await get(lookout, "/healthz"))[0] == 200
        await runtime.drain(1)
        await runtime.close()


async def test_a_worker_that_is_dead_is_told(app: App) -> None:
    async with Lookout([app], watch(), asyncio.Event()) as lookout:
        runtime = Runtime([app])
        await runtime.open()
        runtime.start()
        lookout.attach(runtime)
        runtime.tasks[0].cancel()
        await until(runtime.tasks[0].done)

        assert (await ready(lookout))[1][0] == "the worker of shop.handle is dead"
        await runtime.close()


async def test_housekeeping_that_died_is_told_and_only_a_restart_mends_it(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug in the housekeeping")

    async with Lookout([app], watch(), asyncio.Event()) as lookout:
        runtime = Runtime([app])
        await runtime.open()
        runtime.start()
        lookout.attach(runtime)
        assert app.connection is not None
        monkeypatch.setattr(app.connection.broker, "_move_due", broken)
        await until(lambda: lookout.reasons)

        assert (await ready(lookout))[0] == 503
        assert (await get(lookout, "/healthz"))[0] == 503
        await runtime.drain(1)
        await runtime.close()


async def test_without_a_port_nothing_listens(app: App) -> None:
    async with Lookout([app], watch(None), asyncio.Event()) as lookout:
        assert lookout.port is None


async def test_a_port_that_is_taken_is_refused_at_the_start(app: App) -> None:
    async with Lookout([app], watch(), asyncio.Event()) as one:
        with pytest.raises(ConfigError, match=f"port {one.port}"):
            async with Lookout([app], watch(one.port), asyncio.Event()):
                pass
