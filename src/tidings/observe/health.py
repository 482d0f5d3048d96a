"""A small HTTP server for probes and scrapes: GET and HEAD of a few fixed paths, one request a connection.

It is meant for the machine's own network. What it cannot be made to do: hold a connection for more than some seconds,
read more than a few kilobytes, serve more than some connections at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

from tidings.errors import ConfigError

REQUEST_LIMIT = 8192
CONNECTIONS = 64
DEADLINE = 5.0
REQUEST = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.[01]")


class Answer(NamedTuple):
    """What a path says."""

    status: HTTPStatus
    body: bytes
    content_type: str = "application/json"


Route = Callable[[], Awaitable[Answer]]


def verdict(word: str, reasons: Sequence[str]) -> Answer:
    """`word` is true where there is no reason against it; 503 with the reasons where there is one."""
    body = json.dumps({word: not reasons, "reasons": list(reasons)}).encode() + b"\n"
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, body)


class Server:
    """Serves `routes` by path. `deadline` in seconds is for a whole request."""

    def __init__(self, routes: Mapping[str, Route], *, deadline: float = DEADLINE) -> None:
        self._routes = routes
        self._deadline = deadline
        self._connections = 0
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which was chosen where 0 was asked for. Raises ConfigError where it is taken."""
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=REQUEST_LIMIT)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            async with asyncio.timeout(self._deadline):
                if self._connections <= CONNECTIONS:
                    writer.write(await self._respond(reader))
                    await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            writer.transport.abort()  # the client is gone or too slow
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _encoded(_refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        request = REQUEST.fullmatch(head.partition(b"\r\n")[0])
        if request is None:
            return _encoded(_refusal(HTTPStatus.BAD_REQUEST))
        method, target = request[1], request[2].partition(b"?")[0].decode("ascii")
        if method not in (b"GET", b"HEAD"):
            return _encoded(_refusal(HTTPStatus.METHOD_NOT_ALLOWED), extra="Allow: GET, HEAD\r\n")
        route = self._routes.get(target)
        answer = _refusal(HTTPStatus.NOT_FOUND) if route is None else await route()
        return _encoded(answer, head_only=method == b"HEAD")


def _refusal(status: HTTPStatus) -> Answer:
    return Answer(status, f"{status.phrase}\n".encode(), "text/plain; charset=utf-8")


def _encoded(answer: Answer, *, extra: str = "", head_only: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n"
        f"Cache-Control: no-store\r\nConnection: close\r\n{extra}\r\n"
    ).encode("ascii")
    return head if head_only else head + answer.body
