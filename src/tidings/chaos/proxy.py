"""A TCP proxy that does to connections what networks do.

    async with Proxy(("127.0.0.1", 5432)) as proxy:
        connect_to(proxy.address)
        proxy.set(Latency(seconds=0.1, jitter=0.02), LimitData(bytes=100, direction="down"))
        proxy.heal()

After Toxiproxy (https://github.com/Shopify/toxiproxy), within the process and without a server to install.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self, TypeAlias

from tidings.chaos.pipe import Cut, Pipe
from tidings.chaos.place import here
from tidings.chaos.toxics import Fault, Rules, Toxic, Way, rules
from tidings.clock import Clock
from tidings.errors import ConfigError

LOOPBACK = "127.0.0.1"
RST = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 s: closing sends an RST."""

Address: TypeAlias = tuple[str, int]


class Proxy:
    """Passes connections to `address` on to `target`, with the faults that are set. All of it ends with the block.

    It listens on 127.0.0.1, on `port` or on one that is free. A slow receiver makes the sender wait: each direction of
    a connection holds about 1 MiB at most. Raises ConfigError for a `target` that cannot be found, or that is not on
    this machine unless you say that it is yours to break.
    """

    def __init__(
        self, target: Address, *, port: int = 0, remote_is_mine: bool = False, clock: Clock | None = None
    ) -> None:
        self.target = target
        self.address: Address = (LOOPBACK, port)
        self.faults: tuple[Fault, ...] = ()
        """Those that are set."""
        self.fired: Counter[str] = Counter()
        """How often each kind of fault has done something: to a chunk of bytes, a connection or the listener."""
        self.accepted = 0
        """How many connections were made to it."""
        self._remote_is_mine = remote_is_mine
        self._clock = clock or Clock()
        self._rules: dict[Way, Rules] = {"up": rules((), "up"), "down": rules((), "down")}
        self._pipes: set[Pipe] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._tasks = asyncio.TaskGroup()
        self._holder: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._targets: list[Any] = []

    # -- the block

    async def __aenter__(self) -> Self:
        self._targets = await _resolved(self.target, remote_is_mine=self._remote_is_mine)
        self._holder = _bound(self.address)
        self.address = self._holder.getsockname()
        await self._tasks.__aenter__()
        self.set(*self.faults)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._deafen()
        if self._holder is not None:
            self._holder.close()
        for connection in self._connections:
            connection.cancel()
        await self._tasks.__aexit__(None, None, None)

    # -- faults

    def set(self, *faults: Fault) -> None:
        """These hold from now on, and no others: for new connections, for open ones and for what is on its way.

        Raises ValueError for two of one kind in the same direction.
        """
        self._rules = {"up": rules(faults, "up"), "down": rules(faults, "down")}
        self.faults = faults
        for pipe in self._pipes:
            pipe.obey(self._rules[pipe.way])
        if self._holder is None:
            return
        if refusal := self._rules["up"].refusal:
            self._deafen()
            self._fire(refusal)
        else:
            self._listen()

    def heal(self) -> None:
        """No faults from now on. What was held back is passed on at once."""
        self.set()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def held(self) -> int:
        """Bytes that were read and not yet passed on, in all connections."""
        return sum(pipe.held for pipe in self._pipes)

    def _fire(self, fault: Toxic) -> None:
        self.fired[fault.kind] += 1

    # -- connections

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = _bound(self.address)
            self._listener.listen(1024)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _deafen(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no more file descriptors: the block ends with that
            self._deafen()
            self._tasks.create_task(_raise(error))
            return
        self.accepted += 1
        task = self._tasks.create_task(self._serve(client))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, client: socket.socket) -> None:
        with client:
            _prepare(client)
            if hole := self._rules["up"].black_hole:
                self._fire(hole)
                nobody = self._pipe("up", client, client)
                nobody.lost = True
                await self._run([nobody], [client])
                return
            server = await self._dial()
            if server is None:
                _end(client, reset=True)
                return
            with server:
                up, down = self._pipe("up", client, server), self._pipe("down", server, client)
                up.back, down.back = down, up
                await self._run([up, down], [client, server])

    def _pipe(self, way: Way, source: socket.socket, sink: socket.socket) -> Pipe:
        pipe = Pipe(way, source, sink, clock=self._clock, fired=self.fired)
        pipe.obey(self._rules[way])
        return pipe

    async def _run(self, pipes: Sequence[Pipe], ends: Sequence[socket.socket]) -> None:
        self._pipes.update(pipes)
        try:
            async with asyncio.TaskGroup() as tasks:
                for pipe in pipes:
                    tasks.create_task(pipe.read())
                    tasks.create_task(pipe.write())
        except* Cut as cuts:
            reset = any(isinstance(cut, Cut) and cut.reset for cut in cuts.exceptions)
            for end in ends:
                _end(end, reset=reset)
        finally:
            self._pipes.difference_update(pipes)

    async def _dial(self) -> socket.socket | None:
        """A connection to the target; None where there is nobody."""
        loop = asyncio.get_running_loop()
        for family, kind, protocol, _, address in self._targets:
            server = socket.socket(family, kind, protocol)
            try:
                _prepare(server)
                await loop.sock_connect(server, address)
            except OSError:
                server.close()
            except BaseException:
                server.close()
                raise
            else:
                return server
        return None


async def _raise(error: Exception) -> None:
    raise error


def _prepare(end: socket.socket) -> None:
    end.setblocking(False)
    with contextlib.suppress(OSError):  # some systems refuse it where the other side has gone already
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _bound(address: Address) -> socket.socket:
    """A socket of that address; several may have it. One that does not listen keeps it, while connecting is refused."""
    bound = socket.socket()
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _end(end: socket.socket, *, reset: bool) -> None:
    """Close a connection, so that the other side is reset, or finds the end after all that it was sent."""
    with contextlib.suppress(OSError):  # it is gone already
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        else:
            end.shutdown(socket.SHUT_WR)
    end.close()


async def _resolved(target: Address, *, remote_is_mine: bool) -> list[Any]:
    host, port = target
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"The proxy's target {host}:{port} cannot be found: {error}") from error
    if not remote_is_mine:
        for *_, address in found:
            if not here(str(address[0])):
                raise ConfigError(
                    f"The proxy's target {host}:{port} is {address[0]}, which is not an address of this machine; "
                    "say remote_is_mine=True where it is yours to break."
                )
    return found
