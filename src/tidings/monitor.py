"""The pages on which servers tell their operators of themselves, over HTTP: JSON, read with a deadline."""

from __future__ import annotations

import asyncio
import base64
import http.client
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from tidings.errors import BrokerError, ConfigError, Unreachable

DEADLINE = 3.0
"""Seconds for connecting, and for each answer."""


class Monitor:
    """Where a server tells of itself: `http://HOST:PORT` or `https://HOST:PORT`. Raises ConfigError for another URL."""

    def __init__(self, url: str, user: str | None = None, password: str | None = None) -> None:
        self._place = urlsplit(url)
        if self._place.scheme not in ("http", "https") or not self._place.hostname:
            raise ConfigError(f"the monitoring of a server is http://HOST:PORT, not {self._shown}")
        self._user = self._place.username or user
        self._password = self._place.password or password or ""

    @property
    def _shown(self) -> str:
        return f"{self._place.scheme}://{self._place.netloc.rpartition('@')[2]}"

    async def page(self, path: str) -> Any:
        """What a page says. Raises Unreachable where nobody answers, BrokerError where it is refused."""
        return await asyncio.to_thread(self._page, path)

    def _page(self, path: str) -> Any:
        make = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
        connection = make(_host(self._place), self._place.port, timeout=DEADLINE)
        try:
            connection.request("GET", self._place.path.rstrip("/") + path, headers=self._headers())
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the monitoring at {self._shown} does not answer: {error}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise BrokerError(f"the monitoring at {self._shown} refuses {path}: {answer.status} {answer.reason}")
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise BrokerError(
                f"what {self._shown}{path} says is no JSON: is it the monitoring of the server?"
            ) from error

    def _headers(self) -> dict[str, str]:
        if self._user is None:
            return {}
        signed = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        return {"Authorization": f"Basic {signed}"}


def _host(place: SplitResult) -> str:
    assert place.hostname is not None
    return place.hostname
