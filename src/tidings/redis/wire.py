"""One connection to a server: whoever asks writes at once, and the answers come back in the order of the questions.

An answer belongs to the question at the head of the queue, also when nobody waits for it any more: who is cancelled
gets no answer, and nobody gets another's. What is not answered in time ends the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from tidings.errors import BrokerError, Unreachable
from tidings.redis.scripts import ALL, Script

DEADLINE = 5.0
"""Seconds in which the server answers."""
NOTHING = object()

Word = str | bytes | int
Command = Sequence[Word]
pack = cast(Callable[[tuple[Word, ...]], bytes], hiredis.pack_command)


class Lost(Unreachable):
    """The connection is gone, or what was asked was not answered in time: whether it was done is not known."""


class Refused(BrokerError):
    """The server would not; `code` is its own word for why."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Round:
    """What was asked together. `over` is set when all of it is answered, or nothing more will come."""

    def __init__(self, count: int) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers: list[Any] = []
        self._count = count

    def take(self, answer: Any) -> None:
        """The answer to the next of them."""
        self.answers.append(answer)
        if len(self.answers) == self._count:
            self.end()

    def end(self) -> None:
        """Whoever waits goes on."""
        if not self.over.done():
            self.over.set_result(None)

    @property
    def complete(self) -> bool:
        """Whether all of it was answered."""
        return len(self.answers) == self._count


class Wire(asyncio.Protocol):
    """A connection. `lost` is called once, when it ends without having been hung up."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self._reader = hiredis.Reader(notEnoughData=NOTHING)
        self._rounds: deque[Round] = deque()
        self._transport: asyncio.Transport | None = None
        self._lost: Callable[[], None] | None = lost
        self.trouble = "closed by the server"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See Protocol."""
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not NOTHING:
                self._rounds.popleft().take(answer)
        except (hiredis.ProtocolError, IndexError):
            self.drop("what came is not the protocol of Redis")

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        if exc is not None:
            self.trouble = str(exc) or type(exc).__name__
        self._transport = None
        for round in set(self._rounds):
            round.end()
        self._rounds.clear()
        lost, self._lost = self._lost, None
        if lost is not None:
            lost()

    @property
    def alive(self) -> bool:
        """Whether something can be asked."""
        return self._transport is not None

    def drop(self, why: str) -> None:
        """End it: it is of no use."""
        if self._transport is not None:
            self.trouble = why
            self._transport.abort()
            self.connection_lost(None)

    def hang_up(self) -> None:
        """End it; nobody is told."""
        self._lost = None
        self.drop("hung up")

    def post(self, *commands: Command) -> Round:
        """Ask this. Raises Lost where there is no connection any more."""
        if self._transport is None:
            raise Lost(f"the connection to the Redis server is lost: {self.trouble}")
        round = Round(len(commands))
        self._rounds.extend([round] * len(commands))
        self._transport.write(b"".join([pack(tuple(command)) for command in commands]))
        return round

    async def ask_all(self, *commands: Command, timeout: float = DEADLINE) -> list[Any]:
        """The answers, errors among them as `hiredis.ReplyError`. Raises Lost where one of them did not come."""
        round = self.post(*commands)
        try:
            async with asyncio.timeout(timeout):
                await round.over
        except TimeoutError:
            self.drop(f"the server did not answer within {timeout:g} seconds")
        if not round.complete:
            raise Lost(f"the Redis server did not answer ({self.trouble}); whether it was done is not known")
        return round.answers

    async def ask(self, *words: Word, timeout: float = DEADLINE) -> Any:
        """The answer. Raises Refused and Lost."""
        (answer,) = await self.ask_all(words, timeout=timeout)
        return self.accepted(answer)

    def accepted(self, answer: Any) -> Any:
        """The answer, where it is not an error. A server that may no longer be written to is left."""
        if not isinstance(answer, hiredis.ReplyError):
            return answer
        raise self.refused(str(answer))

    def refused(self, said: str | bytes) -> Refused:
        """What the server said, as an error. A server that may no longer be written to is left."""
        refused = refusal(said if isinstance(said, str) else said.decode("utf-8", "replace"))
        if refused.code in ("READONLY", "MASTERDOWN", "LOADING"):
            self.drop(str(refused))
        return refused

    async def run(
        self, script: Script, keys: Sequence[Word], words: Sequence[Word] = (), *, timeout: float = DEADLINE
    ) -> Any:
        """What a script returns. Raises Refused and Lost."""
        (answer,) = await self.run_all([call(script, keys, words)], timeout=timeout)
        return answer

    async def run_all(self, calls: Sequence[Command], *, timeout: float = DEADLINE) -> list[Any]:
        """What each of these calls of scripts returns. Raises Refused and Lost."""
        answers = await self.ask_all(*calls, timeout=timeout)
        if any(isinstance(each, hiredis.ReplyError) and str(each).startswith("NOSCRIPT") for each in answers):
            await self.ask_all(*(("SCRIPT", "LOAD", script.source) for script in ALL))  # somebody has flushed them
            answers = await self.ask_all(*calls, timeout=timeout)
        return [self.accepted(each) for each in answers]


def call(script: Script, keys: Sequence[Word], words: Sequence[Word] = ()) -> Command:
    """The command that runs a script."""
    return ("EVALSHA", script.sha, len(keys), *keys, *words)


REASONS = {
    "OOM": "its memory is full (maxmemory): keep less (`keep`, or fewer groups that are behind), or give it more",
    "MISCONF": "it cannot write to its disk: see its log",
    "READONLY": "it is a replica now; it is looked for again",
    "NOREPLICAS": "too few of its replicas are there (min-replicas-to-write)",
    "LOADING": "it is loading its data",
    "NOPERM": "this user lacks a right: see `ACL SETUSER` in the guide",
    "NOAUTH": "it wants a password: redis://USER:PASSWORD@HOST",
    "WRONGPASS": "it refuses this user and password: redis://USER:PASSWORD@HOST",
    "WRONGTYPE": "a key of ours is something else there: use another prefix (?prefix=)",
    "MOVED": "the topic lies on another node of a cluster, and tidings speaks to one",
    "CROSSSLOT": "it is a node of a cluster, and tidings speaks to one",
}


def refusal(said: str) -> Refused:
    """What to do about an error that the server answered; those of scripts have the code somewhere within."""
    words = said.replace(":", " ").split()
    code = next((word.lstrip("-") for word in words if word.lstrip("-") in REASONS), words[0] if words else "")
    why = REASONS.get(code)
    return Refused(
        f"the Redis server refused it: {why} ({said})" if why else f"the Redis server refused it: {said}", code
    )
