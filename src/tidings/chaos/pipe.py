"""One direction of a connection through a proxy: bytes in, held for as long as the faults want it, bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections import Counter, deque
from typing import NamedTuple

from tidings.chaos.toxics import Reset, Rules, Toxic, Way
from tidings.clock import Clock

CHUNK = 65_536
"""Bytes read at once."""
WINDOW = 1_048_576
"""Bytes that a pipe holds before it reads no more and the sender has to wait."""
TICK = 0.02
"""Seconds for which a limited bandwidth is sent at once."""
NOW = 1e-6
"""Seconds that are not worth waiting for: what rounding leaves."""
CALM = Rules()


class Cut(Exception):
    """The connection ends here and now, both ways: closed, or reset."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__(reset)
        self.reset = reset


class Chunk(NamedTuple):
    """What was read, when, and its luck in [0, 1), for jitter. Without data: the sender has closed."""

    data: memoryview
    arrived: float
    luck: float


class Pipe:
    """From `source` to `sink`. `read` and `write` run side by side, and raise Cut where the connection has to end.

    The pipe holds at most WINDOW and a CHUNK; beyond that the sender waits, as for any slow reader.
    """

    def __init__(
        self, way: Way, source: socket.socket, sink: socket.socket, *, clock: Clock, fired: Counter[str]
    ) -> None:
        self.way: Way = way
        self.held = 0
        """Bytes that were read and not yet passed on."""
        self.lost = False
        """Something has vanished: nothing that comes will ever be passed on."""
        self.back = self
        """The other direction of the same connection."""
        self._source, self._sink = source, sink
        self._clock, self._fired = clock, fired
        self._rules = CALM
        self._calm = True
        self._chunks: deque[Chunk] = deque()
        self._passed = 0
        self._free = 0.0
        self._listens = False
        self._over = asyncio.Event()
        """There is nothing more to read."""
        self._ending: Cut | None = None
        self._stirred = asyncio.Event()

    def obey(self, rules: Rules) -> None:
        """These hold from now on, also for what is held already. What is to end after some bytes counts from here."""
        self._rules = rules
        self._calm = rules == CALM
        self._passed = 0
        self._free = 0.0
        self._stirred.set()

    @property
    def _silent(self) -> bool:
        return self.lost or self._rules.silence is not None

    def _fire(self, fault: Toxic | None) -> None:
        if fault is not None:
            self._fired[fault.kind] += 1

    # -- in: as a callback, since waiting for each chunk in a task takes three times as long

    async def read(self) -> None:
        """Until the sender has closed."""
        self._hold(0)
        try:
            await self._over.wait()
        finally:
            self._pause()
        if self._ending is not None:
            raise self._ending

    def _hold(self, more: int) -> None:
        """So many bytes more are held: who holds too many listens no more."""
        self.held += more
        if self.held >= WINDOW:
            self._pause()
        elif not self._listens and not self._over.is_set():
            self._listens = True
            asyncio.get_running_loop().add_reader(self._source, self._readable)

    def _pause(self) -> None:
        if self._listens:
            self._listens = False
            asyncio.get_running_loop().remove_reader(self._source)

    def _readable(self) -> None:
        try:
            self._take(memoryview(self._source.recv(CHUNK)))
        except BlockingIOError:
            return
        except Cut as cut:
            self._end(cut)
        except OSError:  # the sender has reset it
            if self._silent:
                self._take(memoryview(b""))
            else:
                self._end(Cut(reset=True))

    def _end(self, cut: Cut) -> None:
        self._ending = cut
        self._over.set()
        self._pause()

    def _take(self, data: memoryview) -> None:
        if not data:
            self._over.set()
            self._pause()
            self._stirred.set()
        if self._silent:
            self.lost = True
            self._fire(self._rules.silence)
            return
        if data and not self._chunks and self._calm:
            data = data[self._send(data) :]  # at once: a proxy that does nothing costs next to nothing
            if not data:
                return
        self._chunks.append(Chunk(data, self._clock.monotonic(), self._clock.random()))
        self._hold(len(data))
        self._stirred.set()

    # -- out

    async def write(self) -> None:
        """Until it is passed on that the sender has closed, or that has vanished."""
        while self._chunks or not (self._over.is_set() and self.lost):
            self._stirred.clear()
            end = self._rules.end
            if end is not None and self._passed >= end[0]:
                await self._cut(*end)
            elif not self._chunks:
                await self._stirred.wait()
            elif (wait := self._due(self._chunks[0]) - self._clock.monotonic()) > NOW:
                await self._clock.wait(self._stirred, wait)
            elif self._chunks[0].data:
                await self._pass_on(self._chunks[0])
            else:
                self._close()
                return

    async def _cut(self, after: int, fault: Toxic) -> None:
        """End the connection, when the receiver has all that it was to get."""
        if after and not _all_sent(self._sink):
            await self._writable()
            return
        self._fire(fault)
        raise Cut(reset=isinstance(fault, Reset))

    def _due(self, chunk: Chunk) -> float:
        rules, due = self._rules, chunk.arrived
        if latency := rules.latency:
            due += max(0.0, latency.seconds + (2.0 * chunk.luck - 1.0) * latency.jitter)
        if rules.slow_close and not chunk.data:
            due += rules.slow_close.seconds
        return max(due, self._free)

    async def _pass_on(self, chunk: Chunk) -> None:
        piece = chunk.data[: self._most()]
        sent = self._send(piece)
        if not sent:
            await self._writable()
            return
        rules = self._rules
        self._fire(rules.latency)
        self._fire(rules.bandwidth)
        self._fire(rules.slicer if len(piece) < len(chunk.data) else None)
        self._chunks.popleft()
        if rest := chunk.data[sent:]:
            self._chunks.appendleft(chunk._replace(data=rest))
        self._hold(-sent)
        self._passed += sent
        self._rest_after(sent)
        await asyncio.sleep(0)  # other connections get their turn, however small the pieces are

    def _most(self) -> int:
        """How many bytes may be sent at once."""
        rules, most = self._rules, [CHUNK]
        if rules.slicer:
            most.append(rules.slicer.size)
        if rules.bandwidth:
            most.append(max(1, int(rules.bandwidth.rate * TICK)))
        if rules.end:
            most.append(rules.end[0] - self._passed)
        return min(most)

    def _rest_after(self, sent: int) -> None:
        """The link is busy for as long as what was sent takes; a timer that was late is made up for, up to a tick."""
        rules, now = self._rules, self._clock.monotonic()
        if rules.bandwidth:
            self._free = max(self._free, now - TICK) + sent / rules.bandwidth.rate
        if rules.slicer:
            self._free = max(self._free, now + rules.slicer.pause)

    def _send(self, data: memoryview) -> int:
        """How many bytes the kernel took."""
        try:
            return self._sink.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the receiver has reset it: news that would come the other way
            if not self.back._silent:
                raise Cut(reset=True) from None
            self.lost = True
            return len(data)

    def _close(self) -> None:
        self._fire(self._rules.slow_close)
        with contextlib.suppress(OSError):  # the receiver has reset it: the other pipe hears of that
            self._sink.shutdown(socket.SHUT_WR)

    async def _writable(self) -> None:
        """Until the kernel takes more, or other rules hold."""
        loop = asyncio.get_running_loop()
        loop.add_writer(self._sink, self._stirred.set)
        try:
            await self._stirred.wait()
        finally:
            loop.remove_writer(self._sink)


def _all_sent(sink: socket.socket) -> bool:
    """Whether the kernel has sent all that it took; from here on, `sink` is writable only where it has.

    What is unsent when a connection is reset would never arrive.
    """
    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1)
    poll = select.poll()
    poll.register(sink, select.POLLOUT)
    return bool(poll.poll(0))
