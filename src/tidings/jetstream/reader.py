"""Reading a stream from a place on: a consumer that remembers nothing, asked again before what it sent runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from tidings.clock import Clock
from tidings.jetstream.wire import HEARTBEAT, Answer, Question, Wire

BATCH = 256
"""How many messages are asked for at a time, of one part."""
BYTES = 4 << 20
"""How many bytes at a time at least: more where one message may be larger."""
PATIENCE = 30.0
"""Seconds for which a request waits at the server."""
UNUSED = 60.0
"""Seconds after which the server forgets a consumer that nobody asks."""


Ended = Callable[[], None]
"""What is called when reading has to begin again."""


class Message(NamedTuple):
    """What lies in a stream."""

    sequence: int
    subject: bytes
    headers: bytes
    data: bytes


class Reader:
    """Messages of one stream on one subject, from `start` (a configuration of the server's `deliver_policy`).

    What comes is in `messages`, and `news` is called. `broken` tells that it has not begun, or has to be made anew.
    """

    def __init__(
        self, wire: Wire, clock: Clock, *, stream: str, subject: bytes, news: Callable[[], None], ended: Ended
    ) -> None:
        self.messages: deque[Message] = deque()
        self.broken = True
        self.heard = 0.0
        self._wire = wire
        self._clock = clock
        self._stream = stream
        self._subject = subject
        self._news = news
        self._ended = ended
        self._name = clock.id()
        self._inbox = wire.new_inbox().encode()
        self._next = 1
        self._asked = 0
        self._limit = max(BYTES, 2 * wire.max_payload)
        self._ear = wire.listen(self._inbox, self._take)

    def question(self, start: dict[str, Any]) -> Question:
        """What makes its consumer."""
        config = {
            "name": self._name, "ack_policy": "none", "max_deliver": -1, "replay_policy": "instant",
            "filter_subject": self._subject.decode(), "inactive_threshold": int(UNUSED * 1e9),
            "num_replicas": 1, "mem_storage": True, **start,
        }  # fmt: skip
        body = msgspec.json.encode({"stream_name": self._stream, "config": config, "action": "create"})
        subject = f"$JS.API.CONSUMER.CREATE.{self._stream}.{self._name}.{self._subject.decode()}"
        return Question(subject.encode(), body)

    def begin(self) -> None:
        """The consumer is there: ask it."""
        self.broken = False
        self.heard = self._clock.monotonic()
        self._pull()

    def _pull(self) -> None:
        if self._asked > BATCH // 2 or len(self.messages) > BATCH // 2 or self.broken:
            return
        self._asked += BATCH
        body = b'{"batch":%d,"max_bytes":%d,"expires":%d,"idle_heartbeat":%d}' % (
            BATCH, self._limit, PATIENCE * 1e9, HEARTBEAT * 1e9,
        )  # fmt: skip
        subject = b"$JS.API.CONSUMER.MSG.NEXT.%b.%b" % (self._stream.encode(), self._name.encode())
        self._wire.post(b"PUB %b %b %d\r\n%b\r\n" % (subject, self._inbox, len(body), body))

    def take(self) -> Message:
        """The next one that came; asks for more where few are left."""
        message = self.messages.popleft()
        if len(self.messages) <= BATCH // 2 and self._asked <= BATCH // 2:
            self._pull()
        return message

    def _take(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        words = reply.split(b".")
        if self.broken:
            return
        if len(words) < 9:
            self._told(Answer(headers, data))
            return
        sequence, number = (words[5], words[6]) if len(words) == 9 else (words[7], words[8])
        if int(number) != self._next:
            self._break()
            return
        self._next += 1
        self._asked -= 1
        self.heard = self._clock.monotonic()
        self.messages.append(Message(int(sequence), subject, headers, data))
        if self._asked <= BATCH // 2 and len(self.messages) <= BATCH // 2:
            self._pull()
        self._news()

    def _told(self, answer: Answer) -> None:
        """A sign of life, the end of a request, or of the consumer."""
        self.heard = self._clock.monotonic()
        if answer.status == b"100":
            return
        if answer.status not in (b"408", b"409", b"404") or b"Delet" in answer.headers or b"Leader" in answer.headers:
            self._break()
            return
        left = [line[23:] for line in answer.headers.split(b"\r\n") if line.startswith(b"Nats-Pending-Messages: ")]
        self._asked -= int(left[0]) if left else self._asked
        self._pull()

    def _break(self) -> None:
        self.broken = True
        self._ended()

    def silent(self) -> bool:
        """Whether signs of life that have to be there are not."""
        return not self.messages and self._clock.monotonic() - self.heard > 3 * HEARTBEAT

    def close(self) -> None:
        """The server may forget it now."""
        self.broken = True
        self._wire.deafen(self._ear)
        if self._wire.is_connected:
            subject = f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}".encode()
            self._wire.post(b"PUB %b 0\r\n\r\n" % subject)
