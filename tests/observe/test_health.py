"""The server for probes, against well-behaved and other clients."""

import asyncio
import json
from collections.abc import AsyncIterator
from http import HTTPStatus

import pytest

from tidings.errors import ConfigError
from tidings.observe.health import CONNECTIONS, REQUEST_LIMIT, Answer, Server, verdict


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def good() -> Answer:
        return verdict("ready", [])

    async def bad() -> Answer:
        return verdict("ready", ["a reason"])

    async def slow() -> Answer:
        await asyncio.sleep(60)
        raise AssertionError("never reached")

    server = Server({"/good": good, "/bad": bad, "/slow": slow}, deadline=0.3)
    yield await server.start("127.0.0.1", 0)
    await server.close()


async def ask(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; status 0 where the server hung up without a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        async with asyncio.timeout(60):
            raw = await reader.read()
    except ConnectionResetError:
        raw = b""
    writer.close()
    if not raw:
        return 0, {}, b""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def test_yes_is_200_and_no_is_503_with_the_reasons(port: int) -> None:
    status, headers, body = await ask(port, get("/good"))
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": []})
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(body))
    assert headers["Connection"] == "close"

    status, _, body = await ask(port, get("/bad?verbose=1"))
    assert (status, json.loads(body)) == (503, {"ready": False, "reasons": ["a reason"]})


async def test_head_is_get_without_the_body(port: int) -> None:
    _, expected, body = await ask(port, get("/good"))
    assert await ask(port, get("/good", "HEAD")) == (200, expected, b"")
    assert body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/good/../bad"), 404),
        (get("/good", "POST"), 405),
        (get("/good", "DELETE"), 405),
        (b"GET /good\r\n\r\n", 400),
        (b"GET good HTTP/1.1\r\n\r\n", 400),
        (b"GET /good HTTP/1.1 more\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /g\xc3\xb6od HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET /good HTTP/1.1\r\nX: " + b"x" * REQUEST_LIMIT + b"\r\n\r\n", 431),
    ],
)
async def test_other_requests_are_refused(port: int, request_: bytes, status: int) -> None:
    assert (await ask(port, request_))[0] == status


async def test_405_says_what_is_allowed(port: int) -> None:
    assert (await ask(port, get("/good", "POST")))[1]["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("request_", [b"", b"GET /good HTTP/1.1\r\n", get("/slow")])
async def test_whoever_is_slow_is_hung_up_on(port: int, request_: bytes) -> None:
    assert await ask(port, request_) == (0, {}, b"")


async def test_only_some_connections_are_served_at_once() -> None:
    async def good() -> Answer:
        return verdict("ready", [])

    server = Server({"/good": good}, deadline=60.0)
    port = await server.start("127.0.0.1", 0)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    assert (await ask(port, get("/good")))[0] == 0
    for _, writer in held:
        writer.close()
    async with asyncio.timeout(60):
        while (await ask(port, get("/good")))[0] != 200:  # noqa: ASYNC110 - nobody tells when it has seen who left
            await asyncio.sleep(0.01)
    await server.close()


async def test_a_port_that_is_taken_is_an_error_that_names_it(port: int) -> None:
    with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}"):
        await Server({}).start("127.0.0.1", port)


def test_a_verdict_is_a_line_of_json() -> None:
    assert verdict("alive", []) == Answer(HTTPStatus.OK, b'{"alive": true, "reasons": []}\n')
