"""The fault proxy, between real sockets. Time is the test's own where a fault needs time."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from tidings.chaos.pipe import CHUNK, WINDOW
from tidings.chaos.proxy import Proxy
from tidings.chaos.toxics import (
    Bandwidth,
    BlackHole,
    Down,
    Fault,
    HalfOpen,
    Latency,
    LimitData,
    Refuse,
    Reset,
    Slicer,
    SlowClose,
    Way,
)
from tidings.clock import Clock
from tidings.errors import ConfigError
from tidings.testing import TestClock

WAYS: list[Way] = ["up", "down"]
BACK: dict[Way, Way] = {"up": "down", "down": "up"}
MESSAGE = bytes(range(32))
LARGE = os.urandom(3_000_000)


class Line(NamedTuple):
    """A connection through a proxy, and who is at its ends."""

    proxy: Proxy
    client: socket.socket
    server: socket.socket

    def ends(self, way: Way) -> tuple[socket.socket, socket.socket]:
        """Who sends and who receives."""
        return (self.client, self.server) if way == "up" else (self.server, self.client)


class Target:
    """A server whose connections the test takes and answers itself."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.address = self.listener.getsockname()

    async def accept(self) -> socket.socket:
        async with asyncio.timeout(60):
            server, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        server.setblocking(False)
        return server


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    made = Target()
    yield made
    made.listener.close()


@contextlib.asynccontextmanager
async def lines(target: Target, clock: Clock | None = None) -> AsyncGenerator[tuple[Proxy, Callable[[], Any]]]:
    """A proxy, and a function that opens a connection through it."""
    with contextlib.ExitStack() as stack:
        async with Proxy(target.address, clock=clock) as proxy:

            async def open_line() -> Line:
                client = stack.enter_context(await connected(proxy.address))
                return Line(proxy, client, stack.enter_context(await target.accept()))

            yield proxy, open_line


@contextlib.asynccontextmanager
async def line(target: Target, clock: Clock | None = None) -> AsyncGenerator[Line]:
    async with lines(target, clock) as (_, open_line):
        yield await open_line()


@contextlib.asynccontextmanager
async def slowed(
    target: Target, way: Way, fault: Fault
) -> AsyncGenerator[tuple[TestClock, Line, socket.socket, socket.socket]]:
    """A connection with this fault, and the ends of it that send and receive."""
    clock = TestClock()
    async with line(target, clock) as through:
        through.proxy.set(fault)
        yield clock, through, *through.ends(way)


async def connected(address: tuple[str, int]) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    try:
        async with asyncio.timeout(60):
            await asyncio.get_running_loop().sock_connect(client, address)
    except BaseException:
        client.close()
        raise
    return client


async def send(end: socket.socket, data: bytes) -> None:
    async with asyncio.timeout(60):
        await asyncio.get_running_loop().sock_sendall(end, data)


async def receive(end: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    got = b""
    async with asyncio.timeout(60):
        while len(got) < count:
            piece = await asyncio.get_running_loop().sock_recv(end, count - len(got))
            assert piece, f"closed after {got!r}"
            got += piece
    return got


async def rest(end: socket.socket) -> tuple[bytes, str]:
    """All that still comes, and how it ends."""
    got = b""
    async with asyncio.timeout(60):
        try:
            while piece := await asyncio.get_running_loop().sock_recv(end, CHUNK):
                got += piece
        except ConnectionResetError:
            return got, "reset"
    return got, "closed"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what it waits for happens in the kernel
            await asyncio.sleep(0.001)


def nothing(end: socket.socket) -> bool:
    """Whether it has heard nothing: no byte, no end, no reset."""
    try:
        return bool(end.recv(1)) and False
    except BlockingIOError:
        return True


def crash(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


async def echoed(through: Line, data: bytes) -> bytes:
    """What comes back where the server echoes."""

    async def echo() -> None:
        await send(through.server, await receive(through.server, len(data)))

    async with asyncio.TaskGroup() as group:
        group.create_task(echo())
        group.create_task(send(through.client, data))
        back = group.create_task(receive(through.client, len(data)))
    return back.result()


async def stuffed(through: Line, way: Way) -> int:
    """Send until the proxy reads no more and the kernel takes no more; how many bytes that were."""
    sender, _ = through.ends(way)
    before, sent, refused = through.proxy.held, 0, 0
    while refused < 10 or through.proxy.held < before + WINDOW:
        try:
            sent, refused = sent + sender.send(LARGE[:CHUNK]), 0
        except BlockingIOError:
            refused += 1
            await asyncio.sleep(0.001)
        assert sent < 200_000_000
    return sent


# -- without faults


async def test_what_is_sent_arrives(target: Target) -> None:
    async with line(target) as through:
        assert await echoed(through, MESSAGE) == MESSAGE
        assert await echoed(through, LARGE) == LARGE
        assert not through.proxy.fired


@pytest.mark.parametrize("way", WAYS)
async def test_one_side_may_close_and_go_on_hearing(target: Target, way: Way) -> None:
    async with line(target) as through:
        sender, receiver = through.ends(way)
        await send(sender, MESSAGE)
        sender.shutdown(socket.SHUT_WR)
        assert await rest(receiver) == (MESSAGE, "closed")
        await send(receiver, LARGE)
        receiver.close()
        assert await rest(sender) == (LARGE, "closed")
        await until(lambda: through.proxy.open == 0)


@pytest.mark.parametrize("way", WAYS)
async def test_a_crash_is_passed_on(target: Target, way: Way) -> None:
    async with line(target) as through:
        sender, receiver = through.ends(way)
        crash(sender)
        assert await rest(receiver) == (b"", "reset")
        await until(lambda: through.proxy.open == 0)


async def test_a_target_that_is_not_there_resets_who_connects(target: Target) -> None:
    target.listener.close()
    async with Proxy(target.address) as proxy:
        with await connected(proxy.address) as client:
            assert await rest(client) == (b"", "reset")


@pytest.mark.parametrize("way", WAYS)
async def test_a_slow_receiver_makes_the_sender_wait(target: Target, way: Way) -> None:
    async with line(target) as through:
        _, receiver = through.ends(way)
        sent = await stuffed(through, way)
        assert WINDOW <= through.proxy.held <= WINDOW + CHUNK
        for at in range(0, sent, CHUNK):
            await receive(receiver, min(CHUNK, sent - at))
        await until(lambda: through.proxy.held == 0)


async def test_all_of_it_ends_with_the_block(target: Target) -> None:
    before, files = asyncio.all_tasks(), set(os.listdir("/proc/self/fd"))
    async with lines(target, TestClock()) as (proxy, open_line):
        proxy.set(Latency(seconds=3600.0))
        opened = [await open_line() for _ in range(3)]
        await send(opened[0].client, MESSAGE)
        opened[1].client.shutdown(socket.SHUT_WR)
        await until(lambda: proxy.held == len(MESSAGE))
        assert proxy.open == 3
        address = proxy.address
    assert asyncio.all_tasks() == before
    assert set(os.listdir("/proc/self/fd")) <= files
    assert proxy.open == proxy.held == 0
    with pytest.raises(ConnectionRefusedError):
        await connected(address)


async def test_many_connections_at_once(target: Target) -> None:
    async with lines(target) as (proxy, open_line):
        opened = [await open_line() for _ in range(100)]
        assert proxy.open == 100
        messages = [os.urandom(10_000) for _ in opened]
        proxy.set(Slicer(size=999))
        assert await asyncio.gather(*map(echoed, opened, messages)) == messages


async def test_small_pieces_hold_nobody_up(target: Target) -> None:
    async with lines(target) as (proxy, open_line):
        first, second = await open_line(), await open_line()
        proxy.set(Slicer(size=1))
        await send(first.client, LARGE[:6_000])
        assert await echoed(second, b"-") == b"-"
        assert proxy.held > 0
        assert await receive(first.server, 6_000) == LARGE[:6_000]


async def test_a_target_may_have_a_name(target: Target) -> None:
    async with Proxy(("localhost", target.address[1])) as proxy:
        with await connected(proxy.address) as client, await target.accept() as server:
            assert await echoed(Line(proxy, client, server), MESSAGE) == MESSAGE


async def test_an_error_of_the_block_comes_out_as_it_is(target: Target) -> None:
    with pytest.raises(ZeroDivisionError):
        async with line(target):
            raise ZeroDivisionError


async def test_without_file_descriptors_the_block_ends(target: Target) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket()
    client.setblocking(False)
    try:
        with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012 - it is the block that ends
            async with Proxy(target.address) as proxy:
                free = os.dup(0)
                os.close(free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
                await asyncio.get_running_loop().sock_connect(client, proxy.address)
                await asyncio.Event().wait()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.close()
    assert [getattr(error, "errno", None) for error in raised.value.exceptions] == [errno.EMFILE]


# -- faults


async def not_before(clock: TestClock, seconds: float, receiver: socket.socket) -> None:
    """Let so much time pass, of which just less would not do."""
    await clock.advance(seconds - 0.5)
    assert nothing(receiver)
    await clock.advance(0.5)


@pytest.mark.parametrize("way", WAYS)
async def test_latency_delays_one_way(target: Target, way: Way) -> None:
    async with slowed(target, way, Latency(seconds=100.0, direction=way)) as (clock, through, sender, receiver):
        await send(sender, MESSAGE)
        await until(lambda: through.proxy.held == len(MESSAGE))
        await clock.advance(50.0)
        await send(sender, MESSAGE[::-1])
        await until(lambda: through.proxy.held == 2 * len(MESSAGE))
        await not_before(clock, 50.0, receiver)
        assert await receive(receiver, len(MESSAGE)) == MESSAGE
        await not_before(clock, 50.0, receiver)
        assert await receive(receiver, len(MESSAGE)) == MESSAGE[::-1]
        await send(receiver, MESSAGE)
        assert await receive(sender, len(MESSAGE)) == MESSAGE
        assert through.proxy.fired == {"latency": 2}


@pytest.mark.parametrize("way", WAYS)
async def test_latency_delays_the_end_too(target: Target, way: Way) -> None:
    async with slowed(target, way, Latency(seconds=100.0)) as (clock, through, sender, receiver):
        await send(sender, MESSAGE)
        await until(lambda: through.proxy.held == len(MESSAGE))
        sender.shutdown(socket.SHUT_WR)
        await not_before(clock, 100.0, receiver)
        assert await receive(receiver, len(MESSAGE)) == MESSAGE
        await clock.advance(100.0)
        assert await rest(receiver) == (b"", "closed")


async def test_jitter_keeps_the_order(target: Target) -> None:
    class Luck(TestClock):
        """None, then all, then none."""

        turn = 1

        def random(self) -> float:
            self.turn += 1
            return self.turn % 2

    clock = Luck()
    async with line(target, clock) as through:
        through.proxy.set(Latency(seconds=10.0, jitter=8.0))
        for number in range(3):
            await send(through.client, MESSAGE)
            await until(lambda number=number: through.proxy.held == (number + 1) * len(MESSAGE))  # type: ignore[misc]
        await clock.advance(1.5)
        assert nothing(through.server)
        await clock.advance(0.5)
        assert await receive(through.server, len(MESSAGE)) == MESSAGE
        await clock.advance(15.5)
        assert nothing(through.server)
        await clock.advance(0.5)
        assert await receive(through.server, 2 * len(MESSAGE)) == 2 * MESSAGE


async def test_healing_passes_on_what_was_held_back(target: Target) -> None:
    async with line(target, TestClock()) as through:
        through.proxy.set(Latency(seconds=3600.0), Bandwidth(rate=1.0), Slicer(size=1, pause=60.0))
        await send(through.client, MESSAGE)
        await until(lambda: through.proxy.held == len(MESSAGE))
        through.proxy.heal()
        assert await receive(through.server, len(MESSAGE)) == MESSAGE
        assert through.proxy.faults == ()


async def test_healing_does_not_wait_for_the_next_piece(target: Target) -> None:
    async with line(target, TestClock()) as through:
        through.proxy.set(Slicer(size=1, pause=3600.0))
        await send(through.client, MESSAGE)
        assert await receive(through.server, 1) == MESSAGE[:1]
        through.proxy.heal()
        assert await receive(through.server, len(MESSAGE) - 1) == MESSAGE[1:]


@pytest.mark.parametrize("way", WAYS)
async def test_bandwidth_limits_one_way(target: Target, way: Way) -> None:
    async with slowed(target, way, Bandwidth(rate=1000.0, direction=way)) as (clock, through, sender, receiver):
        began = clock.now()
        await send(sender, LARGE[:2000])
        got = await receive(receiver, 20)
        while len(got) < 2000:
            with contextlib.suppress(BlockingIOError):
                got += receiver.recv(CHUNK)
            assert len(got) <= 1000.0 * (clock.now() - began) + 41
            await until(lambda: clock.due is not None or not through.proxy.held)
            await clock.advance((clock.due or clock.now()) - clock.now())
        assert got == LARGE[:2000]
        assert clock.now() - began == pytest.approx(1.96)  # the first two ticks came at once
        await send(receiver, LARGE)
        assert await receive(sender, len(LARGE)) == LARGE


async def test_bandwidth_in_real_time(target: Target) -> None:
    async with line(target) as through:
        through.proxy.set(Bandwidth(rate=200_000.0))
        began = time.monotonic()
        assert await echoed(through, LARGE[:40_000]) == LARGE[:40_000]
        assert time.monotonic() - began > 0.15


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 5, 31, 32])
async def test_a_slicer_sends_pieces(target: Target, way: Way, size: int) -> None:
    async with slowed(target, way, Slicer(size=size, pause=1.0, direction=way)) as (clock, through, sender, receiver):
        await send(sender, MESSAGE)
        pieces = []
        for _ in range(0, len(MESSAGE), size):
            pieces.append(await asyncio.get_running_loop().sock_recv(receiver, CHUNK))
            await clock.advance(1.0)
        assert pieces == [MESSAGE[at : at + size] for at in range(0, len(MESSAGE), size)]
        assert through.proxy.fired["slicer"] == len(pieces) - 1
        await send(receiver, MESSAGE)
        assert await receive(sender, len(MESSAGE)) == MESSAGE


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("fault", "ending"), [(Reset, "reset"), (LimitData, "closed")])
async def test_a_message_is_cut_at_every_byte(target: Target, way: Way, fault: type, ending: str) -> None:
    async with lines(target) as (proxy, open_line):
        for count in range(1, len(MESSAGE) + 1):
            through = await open_line()
            proxy.set(fault(count, direction=way))
            sender, receiver = through.ends(way)
            await send(sender, MESSAGE)
            assert await rest(receiver) == (MESSAGE[:count], ending)
            got, how = await rest(sender)
            assert (got, how) == (b"", ending) or (fault is LimitData and how == "reset")
            await until(lambda: proxy.open == 0)
            proxy.heal()
        assert sum(proxy.fired.values()) == len(MESSAGE)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("fault", "ending"), [(Reset, "reset"), (LimitData, "closed")])
async def test_a_cut_counts_over_several_reads(target: Target, way: Way, fault: type, ending: str) -> None:
    async with line(target) as through:
        sender, receiver = through.ends(way)
        assert await echoed(through, MESSAGE) == MESSAGE
        through.proxy.set(fault(40, direction=way), Slicer(size=7, direction=way))
        await send(sender, MESSAGE)
        assert await receive(receiver, 32) == MESSAGE
        await send(receiver, LARGE[:100_000])  # the other way is not counted
        assert await receive(sender, 100_000) == LARGE[:100_000]
        await send(sender, MESSAGE)
        assert await rest(receiver) == (MESSAGE[:8], ending)


async def test_a_limit_that_is_set_again_counts_again(target: Target) -> None:
    async with line(target) as through:
        through.proxy.set(LimitData(bytes=33, direction="up"))
        await send(through.client, MESSAGE)
        assert await receive(through.server, 32) == MESSAGE
        through.proxy.set(LimitData(bytes=33, direction="up"))
        await send(through.client, MESSAGE)
        assert await receive(through.server, 32) == MESSAGE
        await send(through.client, MESSAGE)
        assert await rest(through.server) == (MESSAGE[:1], "closed")


@pytest.mark.parametrize("fault", [Reset(after=30_000), LimitData(bytes=30_000)])
async def test_a_slow_receiver_gets_all_that_comes_before_a_cut(target: Target, fault: Fault) -> None:
    target.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the proxy's side has to keep some
    async with line(target) as through:
        through.proxy.set(fault)
        await send(through.client, LARGE[:40_000])
        await until(lambda: through.proxy.held == 10_000)
        await asyncio.sleep(0)  # now it could end the connection
        got, _ = await rest(through.server)
        assert got == LARGE[:30_000]


async def test_a_limit_ends_the_connection_in_order_whatever_is_unread(target: Target) -> None:
    async with line(target) as through:
        await stuffed(through, "down")
        through.proxy.set(LimitData(bytes=5, direction="up"))
        await send(through.client, MESSAGE)
        assert await rest(through.server) == (MESSAGE[:5], "closed")


async def test_a_large_message_is_cut_exactly(target: Target) -> None:
    async with line(target) as through:
        through.proxy.set(Reset(after=2_000_001, direction="up"))
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_sent_or_reset(through.client))
            assert await rest(through.server) == (LARGE[:2_000_001], "reset")
        assert sending.done()


async def _sent_or_reset(client: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        await send(client, LARGE)


@pytest.mark.parametrize("fault", [Reset(), LimitData(bytes=0), Down()])
async def test_an_idle_connection_ends_at_once(target: Target, fault: Fault) -> None:
    ending = "reset" if isinstance(fault, Reset) else "closed"
    async with line(target) as through:
        through.proxy.set(fault)
        assert await rest(through.client) == (b"", ending)
        assert await rest(through.server) == (b"", ending)


async def test_a_connection_that_is_stuck_ends_at_once(target: Target) -> None:
    async with line(target) as through:
        await stuffed(through, "up")
        await stuffed(through, "down")
        through.proxy.set(Reset())
        await until(lambda: through.proxy.open == 0)
        assert (await rest(through.client))[1] == (await rest(through.server))[1] == "reset"


async def test_new_connections_are_reset_too(target: Target) -> None:
    async with Proxy(target.address) as proxy:
        proxy.set(Reset())
        for _ in range(3):
            with await connected(proxy.address) as client:
                assert await rest(client) == (b"", "reset")


@pytest.mark.parametrize("way", WAYS)
async def test_half_open_swallows_one_way(target: Target, way: Way) -> None:
    async with lines(target) as (proxy, open_line):
        through = await open_line()
        sender, receiver = through.ends(way)
        assert await echoed(through, MESSAGE) == MESSAGE
        proxy.set(HalfOpen(direction=way))
        await send(sender, MESSAGE)
        await until(lambda: proxy.fired["half_open"] == 1)
        await send(receiver, LARGE)
        assert await receive(sender, len(LARGE)) == LARGE
        sender.shutdown(socket.SHUT_WR)
        await until(lambda: proxy.fired["half_open"] == 2)
        proxy.heal()
        await send(receiver, MESSAGE)
        assert await receive(sender, len(MESSAGE)) == MESSAGE
        assert nothing(receiver)
        assert await echoed(await open_line(), MESSAGE) == MESSAGE
        receiver.close()
        assert await rest(sender) == (b"", "closed")
        await until(lambda: proxy.open == 1)


async def test_half_open_both_ways(target: Target) -> None:
    async with line(target) as through:
        through.proxy.set(HalfOpen())
        for end in (through.client, through.server):
            await send(end, LARGE)  # all of it: who sends does not notice
        await until(lambda: through.proxy.fired["half_open"] >= 2 * len(LARGE) / CHUNK)
        crash(through.client)
        await send(through.server, LARGE)
        assert nothing(through.server)
        assert through.proxy.open == 1
        through.server.close()
        await until(lambda: through.proxy.open == 0)


@pytest.mark.parametrize("way", WAYS)
async def test_half_open_hides_a_crash(target: Target, way: Way) -> None:
    async with line(target) as through:
        sender, receiver = through.ends(way)
        assert await echoed(through, MESSAGE) == MESSAGE
        through.proxy.set(HalfOpen(direction=way))
        crash(sender)
        await until(lambda: through.proxy.fired["half_open"] == 1)
        through.proxy.heal()
        await send(receiver, LARGE)
        await send(receiver, LARGE)
        assert nothing(receiver)
        receiver.close()
        await until(lambda: through.proxy.open == 0)


async def test_half_open_that_lost_nothing_heals(target: Target) -> None:
    async with line(target) as through:
        through.proxy.set(HalfOpen())
        through.proxy.heal()
        assert await echoed(through, MESSAGE) == MESSAGE


async def test_a_black_hole_accepts_and_swallows(target: Target) -> None:
    async with lines(target) as (proxy, open_line):
        before = await open_line()
        proxy.set(BlackHole())
        with await connected(proxy.address) as client, await connected(proxy.address) as quiet:
            await send(client, LARGE)
            await send(before.client, MESSAGE)
            await send(before.server, MESSAGE)
            await until(lambda: proxy.fired["black_hole"] >= 4 + len(LARGE) / CHUNK)
            proxy.heal()
            await send(quiet, MESSAGE)
            after = await open_line()
            assert await echoed(after, MESSAGE) == MESSAGE
            await send(client, MESSAGE)
            with pytest.raises(BlockingIOError):
                target.listener.accept()  # nobody was told of it
            assert nothing(client)
            assert nothing(quiet)
            assert nothing(before.client)
            assert nothing(before.server)
            proxy.set(Reset())
            assert await rest(client) == (b"", "reset")


@pytest.mark.parametrize("way", WAYS)
async def test_a_slow_close_comes_later(target: Target, way: Way) -> None:
    async with slowed(target, way, SlowClose(seconds=30.0, direction=way)) as (clock, through, sender, receiver):
        await send(sender, MESSAGE)
        sender.shutdown(socket.SHUT_WR)
        assert await receive(receiver, len(MESSAGE)) == MESSAGE
        await until(lambda: clock.due is not None)
        await not_before(clock, 30.0, receiver)
        assert await rest(receiver) == (b"", "closed")
        receiver.shutdown(socket.SHUT_WR)
        assert await rest(sender) == (b"", "closed")
        assert through.proxy.fired == {"slow_close": 1}


async def test_new_connections_are_refused(target: Target) -> None:
    async with lines(target) as (proxy, open_line):
        through = await open_line()
        for _ in range(3):
            proxy.set(Refuse())
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    await connected(proxy.address)
            assert await echoed(through, MESSAGE) == MESSAGE
            proxy.heal()
            assert await echoed(await open_line(), MESSAGE) == MESSAGE
        assert proxy.fired == {"refuse": 3}


async def test_down_and_up(target: Target) -> None:
    async with lines(target) as (proxy, open_line):
        for _ in range(3):
            through = await open_line()
            assert await echoed(through, MESSAGE) == MESSAGE
            proxy.set(Down())
            with pytest.raises(ConnectionRefusedError):
                await connected(proxy.address)
            assert await rest(through.client) == (b"", "closed")
            assert await rest(through.server) == (b"", "closed")
            proxy.heal()


async def test_faults_hold_from_the_start(target: Target) -> None:
    proxy = Proxy(target.address)
    proxy.set(Refuse())
    async with proxy:
        with pytest.raises(ConnectionRefusedError):
            await connected(proxy.address)


# -- what is refused


async def test_a_target_elsewhere_needs_a_flag() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1, which is not an address of this machine"):
        async with Proxy(("192.0.2.1", 80)):
            pass
    async with Proxy(("192.0.2.1", 80), remote_is_mine=True):
        pass


async def test_a_target_that_cannot_be_found() -> None:
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid:80 cannot be found"):
        async with Proxy(("no.such.host.invalid", 80)):
            pass


def test_two_of_a_kind_are_refused_in_one_direction() -> None:
    proxy = Proxy(("127.0.0.1", 1))
    proxy.set(Latency(seconds=1.0, direction="up"), Latency(seconds=2.0, direction="down"))
    with pytest.raises(ValueError, match="cannot both hold downstream"):
        proxy.set(Latency(seconds=1.0), Latency(seconds=2.0, direction="down"))
    assert len(proxy.faults) == 2


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"kind": "latency", "seconds": 1, "direction": "up"}, Latency(seconds=1.0, direction="up")),
        ({"kind": "half_open"}, HalfOpen()),
        ({"kind": "limit_data", "bytes": 7}, LimitData(bytes=7)),
        ({"kind": "down"}, Down()),
    ],
)
def test_a_profile_names_a_fault(table: dict[str, Any], fault: Fault) -> None:
    assert msgspec.convert(table, Fault) == fault


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"kind": "lightning"}, "Invalid value 'lightning'"),
        ({"kind": "latency", "seconds": -1}, "latency: seconds is -1.0, which is less than 0"),
        ({"kind": "latency", "seconds": 1, "speed": 2}, "unknown field `speed`"),
        ({"kind": "bandwidth", "rate": 0}, "bandwidth: rate is 0.0, which is not over 0"),
        ({"kind": "slicer", "size": 0}, "slicer: size is 0, which is less than 1"),
        ({"kind": "reset", "direction": "sideways"}, "Invalid enum value 'sideways'"),
        ({"kind": "refuse", "direction": "up"}, "unknown field `direction`"),
        ({"kind": "latency", "seconds": float("nan")}, "latency: seconds is nan"),
    ],
)
def test_a_profile_that_cannot_be(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(table, Fault)
