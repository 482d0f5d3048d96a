"""Commits of a member: one on its way at a time, which carries whatever has changed since the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from tidings.clock import Clock
from tidings.errors import BrokerError, Fenced
from tidings.kafka.ledger import Ledger
from tidings.kafka.pump import Then
from tidings.kafka.settings import broker_error

AGAIN = 0.1
PASSING = {
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_COORDINATOR,
    KafkaError._WAIT_COORD,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
"""A commit that fails so is tried again: the group agrees anew, the coordinator moves, or a topic is made again."""


Send = Callable[[list[TopicPartition], Then], None]


class Keeper:
    """Lets Kafka keep what is known of partitions. `numbered` are those that are owned; `patience` in seconds."""

    def __init__(self, name: str, clock: Clock, numbered: Mapping[int, Ledger], send: Send, patience: float) -> None:
        self._name = name
        self._clock = clock
        self._numbered = numbered
        self._send = send
        self._patience = patience
        self._round: asyncio.Future[None] | None = None
        self._sending: asyncio.Future[None] | None = None

    async def keep(self, ledgers: Iterable[Ledger]) -> None:
        """Return when Kafka has what is known of these now, or they are gone."""
        wanted = [(ledger, ledger.version) for ledger in ledgers]
        until = self._clock.monotonic() + self._patience
        while wanted := [(ledger, version) for ledger, version in wanted if ledger.kept < version]:
            if any(ledger.number not in self._numbered for ledger, _ in wanted):
                raise Fenced(f"partitions of {self._name} were lost to another member")
            awaited = self.go()
            try:
                async with asyncio.timeout(max(until - self._clock.monotonic(), 0)):
                    await asyncio.shield(awaited)
            except TimeoutError as error:
                raise BrokerError(f"Kafka has not taken a commit of {self._name}; it is tried again.") from error
            except KafkaException as error:
                if error.args[0].code() not in PASSING or self._clock.monotonic() > until:
                    raise broker_error(error, f"the progress of {self._name} is not kept") from error
                await self._clock.sleep(AGAIN)

    def go(self) -> asyncio.Future[None]:
        """The next commit, which begins when none is on its way."""
        if self._round is None:
            self._round = asyncio.get_running_loop().create_future()
        awaited = self._round
        self._commit()
        return awaited

    def _commit(self) -> None:
        """Start the next commit, unless one is on its way: then it follows."""
        if self._sending is not None or self._round is None:
            return
        changed = [(ledger, ledger.version) for ledger in self._numbered.values() if ledger.kept < ledger.version]
        if not changed:  # the one before has carried it, and Kafka's client refuses to commit nothing
            self._round.set_result(None)
            self._round = None
            return
        self._sending, self._round = self._round, None
        places = [TopicPartition(each.topic, each.partition, each.floor, each.told()) for each, _ in changed]
        self._send(places, partial(self._sent, changed))

    def _sent(self, changed: list[tuple[Ledger, int]], error: KafkaException | None) -> None:
        sent, self._sending = self._sending, None
        assert sent is not None
        if error is None:
            for ledger, version in changed:
                ledger.kept = version
            sent.set_result(None)
        else:
            sent.set_exception(error)
            sent.exception()  # who waited may have gone
        self._commit()

    async def quiet(self) -> None:
        """Wait for what is on its way: later, it would overtake what the next owner says."""
        if self._sending is not None and not self._sending.done():
            await asyncio.wait([self._sending], timeout=self._patience)
