"""Looking at a RabbitMQ server: what it tells its clients, and its operators where the management plugin is on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from tidings.amqp.address import parse
from tidings.amqp.channel import Publisher
from tidings.amqp.checkup import Managed, Node, Queue, Seen, examine
from tidings.amqp.connection import Connection, server_version
from tidings.amqp.naming import MARK, largest
from tidings.amqp.wire import envelope, packed
from tidings.clock import Clock
from tidings.errors import BrokerError
from tidings.monitor import Monitor
from tidings.survey import Census, Finding, Topic, Wish

PATIENCE = 2.0
"""Seconds in which a server that is short of nothing confirms a message."""
HEARTBEAT = 10
NOBODY = "tidings-doctor"
"""No queue has this name: what is sent there is dropped."""
COLUMNS = "name,type,members,online,effective_policy_definition"


class Surveyor:
    """See survey.Surveyor."""

    def __init__(self, url: str, clock: Clock, monitor: str | None = None) -> None:
        self._address = parse(url)
        user, password = self._address.user or "guest", self._address.password or "guest"
        self._monitor = None if monitor is None else Monitor(monitor, user, password)
        self._connection = Connection(self._address, clock, heartbeat=HEARTBEAT)

    async def open(self) -> None:
        """See survey.Surveyor."""
        await self._connection.open()

    async def close(self) -> None:
        """See survey.Surveyor."""
        await self._connection.close()

    async def findings(self, wish: Wish) -> Sequence[Finding]:
        """See survey.Surveyor."""
        version = server_version(self._connection.wire())
        try:
            managed, why = await self._managed(), ""
        except BrokerError as error:
            managed, why = None, str(error)
        blocked = await self._blocked()
        seen = Seen(version=version, limit=largest(version), blocked=blocked, managed=managed, why=why)
        return list(examine(seen, wish))

    async def _blocked(self) -> str | None:
        """Why nothing may be published: only who publishes is told. What is sent goes to no queue."""
        wire = self._connection.wire()
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def blocked(_: Any, frame: Any) -> None:
            if not told.done():
                told.set_result(str(frame.method.reason))

        wire.add_on_connection_blocked_callback(blocked)
        publisher = await Publisher(wire).open()
        message = envelope(publisher.number, "", NOBODY, mandatory=False) + packed(
            publisher.number, b"\0\0", b"", wire.fits
        )
        _, batch = publisher.start([message])
        waited: list[asyncio.Future[Any]] = [told, batch.future]
        await asyncio.wait(waited, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            return told.result()
        return None if batch.future.done() else f"a message was not confirmed within {PATIENCE:g} s"

    async def _managed(self) -> Managed:
        if self._monitor is None:
            raise BrokerError("a client is not told of queues and nodes")
        nodes = await self._monitor.page("/api/nodes")
        queues = await self._listed(self._monitor, "queues", COLUMNS)
        return Managed(msgspec.convert(nodes, list[Node]), msgspec.convert(queues, list[Queue]))

    async def _listed(self, monitor: Monitor, what: str, columns: str) -> list[dict[str, Any]]:
        """The queues or exchanges of our prefix."""
        found = await monitor.page(f"/api/{what}/{quote(self._address.vhost, safe='')}?columns={columns}")
        begin = f"{self._address.prefix}."
        return [row for row in msgspec.convert(found, list[dict[str, Any]]) if row["name"].startswith(begin)]

    async def census(self) -> Census:
        """See survey.Surveyor. There is no log: what is known are names, and those only from the management."""
        if self._monitor is None:
            raise BrokerError(
                "RabbitMQ tells its clients of no exchanges and queues. Name its management, --monitor "
                "http://HOST:15672; or see `rabbitmqctl list_queues name messages consumers`: TOPIC:GROUP:PART each"
            )
        groups: dict[str, list[str]] = {}
        for row in await self._listed(self._monitor, "exchanges", "name"):
            words = row["name"].removeprefix(f"{self._address.prefix}.").split(":")
            heard = groups.setdefault(unquote(words[0]), [])
            if words[2:] == [MARK]:
                heard.append(unquote(words[1]))
        topics = [Topic(name, None, None, None, None, None, sorted(heard)) for name, heard in sorted(groups.items())]
        return Census(topics, {})
