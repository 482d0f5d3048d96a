"""A part of the keys in the hands of a member: its cursor, and what was read of it and is not lent yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from tidings.clock import Clock
from tidings.jetstream.cursor import Cursor, encode
from tidings.jetstream.naming import Topic
from tidings.jetstream.reader import Ended, Message, Reader
from tidings.jetstream.server import acked, got, one
from tidings.jetstream.wire import Answer, Lost, Question, Wire


class Part:
    """One part of a topic. `leaving` is until when (monotonic) what is out may be settled before it goes."""

    def __init__(self, topic: Topic, number: int, subject: bytes, cursor: Cursor) -> None:
        self.topic = topic
        self.number = number
        self.cursor = cursor
        self.leaving: float | None = None
        self.reader: Reader | None = None
        self._subject = subject
        self._again: deque[Message] = deque()

    @property
    def pending(self) -> int:
        """How many are out."""
        return len(self.cursor.out)

    @property
    def ready(self) -> bool:
        """Whether there is something to lend."""
        if self.leaving is not None or self.reader is None or self.reader.broken:
            return False
        return bool(self._again or self.reader.messages)

    def take(self, limit: int) -> list[tuple[Part, Message, int]]:
        """Lend at most so many: of each the message and its attempt."""
        taken: list[tuple[Part, Message, int]] = []
        lend, again = self.cursor.lend, self._again
        while again and len(taken) < limit:
            message = again.popleft()
            taken.append((self, message, lend(message.sequence)))
        if self.reader is not None:
            messages, take = self.reader.messages, self.reader.take
            while messages and len(taken) < limit:
                message = take()
                taken.append((self, message, lend(message.sequence)))
        return taken

    def put_back(self, messages: Sequence[Message]) -> None:
        """These were not lent after all."""
        for message in messages:
            self.cursor.take_back(message.sequence)
        self._line_up(messages)

    def _line_up(self, messages: Sequence[Message]) -> None:
        """These come again, each once, in the order of the stream: some may have been asked for meanwhile."""
        known = {message.sequence: message for message in (*self._again, *messages)}
        self._again = deque(known[sequence] for sequence in sorted(known))

    def write(self) -> Question:
        """What writes the cursor, where nobody else has written it."""
        cursor = self.cursor
        return compare_and_put(self._subject, cursor.revision, encode(cursor.state()))

    def latest(self, bucket: str) -> tuple[str, dict[str, str]]:
        """What reads the cursor as the leader of the bucket has it."""
        return f"STREAM.MSG.GET.{bucket}", {"last_by_subj": self._subject.decode()}

    def claim(self) -> Question:
        """What writes it, having just become its member."""
        self.cursor.changes += 1
        return self.write()

    def questions(self, wire: Wire, clock: Clock, *, news: Callable[[], None], ended: Ended) -> list[Question]:
        """What begins the reading: a consumer for what comes after `read`, and each message that comes again."""
        old = self.reader
        start = self.cursor.read
        subject = self.topic.subjects[self.number]
        self.reader = Reader(wire, clock, stream=self.topic.stream, subject=subject, news=news, ended=ended)
        if old is not None:
            old.close()
            self.reader.messages = old.messages
            start = max(start, old.messages[-1].sequence if old.messages else 0)
        known = {message.sequence for message in self._again}
        self._lacking = [sequence for sequence in sorted(self.cursor.back) if sequence not in known]
        config = {"deliver_policy": "by_start_sequence", "opt_start_seq": start + 1}
        return [self.reader.question(config), *(one(self.topic.stream, each) for each in self._lacking)]

    def unfound(self, answers: Sequence[Answer | None]) -> list[int]:
        """Which messages the server did not find."""
        asked = zip(self._lacking, answers[1:], strict=True)
        return [sequence for sequence, answer in asked if answer is not None and answer.status == b"404"]

    def begin(self, answers: Sequence[Answer | None], gone: Collection[int]) -> None:
        """Read on with what was answered; `gone` is what is settled since the stream does not keep it any more.

        Raises Lost, and Refused where the stream is gone.
        """
        assert self.reader is not None
        if None in answers:
            raise Lost("the NATS server did not answer in time")
        found: list[Message] = []
        for sequence, answer in zip(self._lacking, answers[1:], strict=True):
            assert answer is not None
            if sequence in gone:
                self.cursor.settle(sequence)
            elif answer.status:
                raise Lost(f"the NATS server did not give message {sequence} of {self.topic.stream}")
            else:
                found.append(got(answer))
        self._line_up(found)
        acked(answers[0])
        self.reader.begin()

    def fit(self, made: str, last: int) -> bool:
        """Whether this is still the stream that it belongs to; where it is not, what was read of it is forgotten."""
        if self.cursor.fit(made, last):
            return True
        self._again.clear()
        if self.reader is not None:
            self.reader.messages.clear()
            self.reader.broken = True
        return False

    def rewind(self) -> None:
        """What was out comes again, as if it had not been lent."""
        for sequence in list(self.cursor.out):
            self.cursor.take_back(sequence)
        self.leaving = None
        if self.reader is not None:
            self.reader.broken = True

    def close(self) -> None:
        """No more of it is read."""
        if self.reader is not None:
            self.reader.close()


def compare_and_put(subject: bytes, revision: int, value: bytes) -> Question:
    """What writes a key whose revision is this (0: it must not exist)."""
    headers = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % revision
    return Question(subject, value, headers)
