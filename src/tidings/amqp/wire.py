"""One TCP connection to RabbitMQ: pika's protocol on asyncio's transport, with a way of its own for what is frequent.

pika opens the connection, signs in, sends and watches heartbeats, opens channels, declares and consumes. Deliveries,
returned messages and confirmations are cut out of the stream here, many at a time, without an object for each frame;
so are the publishes, which are written in one piece for a whole batch.
"""

# pyright: reportAttributeAccessIssue=false
# The stubs that pyright brings for pika name only what is public.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import Any, Protocol

import pika.exceptions
from pika.connection import Connection, Parameters

FRAME = Struct(">BHI")
METHOD = Struct(">I")
LONG = Struct(">Q")
BODY_SIZE = Struct(">Q")
HEAD = Struct(">BHIHHQ")
DELIVER, RETURN, ACK, NACK, QOS_OK = 0x3C003C, 0x3C0032, 0x3C0050, 0x3C0078, 0x3C000B
PUBLISH = 0x3C0028
END = b"\xce"
FRAME_END = END[0]
PROTOCOL_HEADER = ord("A")


class Tap(Protocol):
    """What a channel does with what is cut out of the stream for it."""

    def delivered(self, tag: int, redelivered: bool, header: bytes, body: bytes) -> None:
        """A message for a consumer; `header` is its properties as they came."""
        ...

    def returned(self, header: bytes, body: bytes) -> None:
        """A message that went to no queue; its confirmation comes after it."""
        ...

    def confirmed(self, tag: int, multiple: bool, kept: bool) -> None:
        """The broker has a message, or up to it all; or it could not keep it."""
        ...

    def passed(self) -> bool:
        """What was sent before a barrier has been dealt with; whether there was a barrier."""
        ...


class Wire(Connection, asyncio.Protocol):
    """A connection of pika on asyncio. `done` is told once how the opening went, `lost` once why it ended."""

    def __init__(
        self,
        parameters: Parameters,
        done: Callable[[BaseException | None], None],
        lost: Callable[[BaseException], None],
    ) -> None:
        self.taps: dict[int, Tap] = {}
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._chunks: list[bytes] = []
        self._held = 0
        self._need = 0
        self.ended = asyncio.Event()
        self.ended.set()
        super().__init__(
            parameters, lambda _: done(None), lambda _, error: done(error), lambda _, error: lost(error),
            internal_connection_workflow=False,
        )  # fmt: skip

    # -- pika's side of the transport

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> Any:
        return self._loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: Any) -> None:
        timeout_id.cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[[], Any]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _adapter_connect_stream(self) -> None:
        raise RuntimeError("pika is not to connect by itself: internal_connection_workflow is False")

    def _adapter_disconnect_stream(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.ended.clear()
        self._on_stream_connected()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        self._writable.set()
        self.ended.set()
        if self._error is None and exc is None:
            exc = pika.exceptions.StreamLostError("the server closed the connection")
        self._on_stream_terminated(None if self._error is not None else exc)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable.set()

    def write(self, data: bytes) -> None:
        """Send frames. Nothing where the connection is lost: whoever waits for an answer is told."""
        if self._transport is not None and not self._transport.is_closing():
            self.bytes_sent += len(data)
            self._transport.write(data)

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def fits(self) -> int:
        """How many bytes of a body, or of properties with what goes with them, fit into a frame."""
        return int(self._body_max_length) - 12

    async def drained(self) -> None:
        """Wait while more is to be sent than the network takes."""
        await self._writable.wait()

    # -- what comes

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.bytes_received += len(data)
        if self._chunks:
            self._chunks.append(data)
            self._held += len(data)
            if self._held < self._need:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        position, self._need = self._scan(data)
        if position < len(data):
            self._chunks.append(data[position:])
            self._held = len(data) - position

    def _scan(self, data: bytes) -> tuple[int, int]:
        """Deal with all that is complete. Up to where, and how many bytes are needed from there to go on."""
        position, end, taps = 0, len(data), self.taps
        while end - position >= 8:
            kind, channel, size = FRAME.unpack_from(data, position)
            following = position + 8 + size
            if kind == PROTOCOL_HEADER:
                following = end
            elif following > end:
                return position, 8 + size
            elif data[following - 1] != FRAME_END:
                self._terminate_stream(pika.exceptions.InvalidFrameError("a frame does not end where it says"))
                return end, 0
            if kind == 1 and (tap := taps.get(channel)) is not None:
                method = METHOD.unpack_from(data, position + 7)[0]
                if method == DELIVER or method == RETURN:  # noqa: PLR1714, SIM109 - twice as fast, once a message
                    found = content(data, following)
                    if found is None:
                        return position, end - position + 1
                    header, body, following = found
                    if method == RETURN:
                        tap.returned(header, body)
                    else:
                        at = position + 12 + data[position + 11]
                        tap.delivered(LONG.unpack_from(data, at)[0], data[at + 8] & 1 == 1, header, body)
                    position = following
                    continue
                if self._answered(tap, method, data, position + 11):
                    position = following
                    continue
            self._on_data_available(data[position:following])
            position = following
            if self.is_closed:
                return end, 0
        return position, 8

    @staticmethod
    def _answered(tap: Tap, method: int, data: bytes, at: int) -> bool:
        """Whether this was a method that the tap takes."""
        if method == ACK or method == NACK:  # noqa: PLR1714, SIM109 - as above
            tap.confirmed(LONG.unpack_from(data, at)[0], data[at + 8] & 1 == 1, method == ACK)
            return True
        return method == QOS_OK and tap.passed()


def content(data: bytes, at: int) -> tuple[bytes, bytes, int] | None:
    """Properties and body of the message whose header frame is here, and where it ends; None where it is cut off."""
    end = len(data)
    if end - at < 20:
        return None
    size = FRAME.unpack_from(data, at)[2]
    position = at + 8 + size
    if position > end:
        return None
    wanted = BODY_SIZE.unpack_from(data, at + 11)[0]
    header = data[at + 19 : at + 7 + size]
    parts: list[bytes] = []
    while wanted > 0:
        if end - position < 8:
            return None
        size = FRAME.unpack_from(data, position)[2]
        if position + 8 + size > end:
            return None
        parts.append(data[position + 7 : position + 7 + size])
        position += 8 + size
        wanted -= size
    return header, parts[0] if len(parts) == 1 else b"".join(parts), position


def envelope(channel: int, exchange: str, key: str, *, mandatory: bool) -> bytes:
    """The frame that begins a message which is published."""
    to, by = exchange.encode(), key.encode()
    arguments = METHOD.pack(PUBLISH) + b"\0\0" + bytes((len(to),)) + to + bytes((len(by),)) + by + bytes((mandatory,))
    return FRAME.pack(1, channel, len(arguments)) + arguments + END


def packed(channel: int, properties: bytes, body: bytes, most: int) -> bytes:
    """The frames of properties and body; `most` is how many bytes of a body fit into one."""
    size = len(body)
    head = HEAD.pack(2, channel, 12 + len(properties), 60, 0, size) + properties + END
    if size <= most:
        return head + FRAME.pack(3, channel, size) + body + END if size else head
    pieces = [body[at : at + most] for at in range(0, size, most)]
    return head + b"".join([FRAME.pack(3, channel, len(piece)) + piece + END for piece in pieces])
