"""What a scenario is given: a world, and words to publish to it and to look into it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from tidings import dead, failpoint
from tidings.app import App
from tidings.broker import Record
from tidings.codec import Reader
from tidings.embedded import agenda
from tidings.errors import PublishFailed, StorageError
from tidings.message import Event, contract_of
from tidings.store import Table
from tidings.testing.clock import START
from tidings.testing.sim.loop import Stuck
from tidings.testing.sim.world import World

E = TypeVar("E", bound=Event)
V = TypeVar("V")

PATIENCE = 60.0
"""Virtual seconds in which something must move once nothing goes wrong any more."""
LOOK = 0.25
RECORDS = """SELECT l.id, l.type, l.key, l.time, l.headers, l.body FROM tidings_log l
    JOIN tidings_topic t ON t.id = l.topic WHERE t.name = ? ORDER BY l.pos"""


class Simulation(World):
    """One run of the apps under faults, as a scenario sees it. All times are in virtual seconds.

    `random` is for the scenario's own decisions: it depends on nothing but the seed.
    """

    # -- what a scenario does

    async def publish(self, *events: Event, id: str | None = None, delay: float | None = None) -> None:
        """Tell what happened, as another service would, again under the same ids until it is known to be kept."""
        client = self._speaker
        codec = client.apps[-1].codec
        due = None if delay is None else client.clock.now() + delay
        records = [codec.encode(event, id=id, due=due) for event in events]
        self.attempted |= {(record.topic, record.id): record for record in records}
        while True:
            try:
                await client.broker.publish(records)
            except (StorageError, PublishFailed) as error:
                self.tell("client", f"publishes again: {type(error).__name__}")
                await asyncio.sleep(0.1)
            else:
                return

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    async def settle(self) -> None:
        """End the time of faults, let everything heal, and wait until nothing is left to do.

        Raises Stuck, an AssertionError, where for a minute nothing of it gets less that could.
        """
        self._heal()
        before: Mapping[str, int] = {}
        since = self.loop.time()
        while left := self._left():
            self._raise_failures()
            if left != before:
                before, since = left, self.loop.time()
            due = self._next_due()
            if due is not None:
                since = max(since, due - START)
            if self.loop.time() > since + PATIENCE:
                raise Stuck(f"nothing has moved for {PATIENCE:g} s, after everything has healed: {dict(left)}")
            await asyncio.sleep(LOOK if due is None else max(due - self._now, LOOK))
        self._raise_failures()

    async def heard(self, event: type[E]) -> list[E]:
        """All events of a type that are in the log, in order."""
        contract = contract_of(event)
        reader = Reader({contract.name: event})
        return [reader.decode(record) for record in self.log(contract.topic) if record.type == contract.name]

    async def row(self, table: Table[V], key: str) -> V | None:
        """A row of the store."""
        found = self._speaker.broker.read("SELECT value FROM tidings_row WHERE tbl = ? AND key = ?", (table.name, key))
        return msgspec.msgpack.decode(found[0][0], type=table.type) if found else None

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a SELECT, of the services' own tables too; none where the table has never been made."""
        try:
            return self._speaker.broker.read(query, values)
        except StorageError as error:
            if "no such table" in str(error):
                return []
            raise

    def log(self, topic: str) -> list[Record]:
        """The records of a topic."""
        return [
            Record(topic, body, key, type, id, time, msgspec.json.decode(headers, type=dict[str, str]))
            for id, type, key, time, headers, body in self._speaker.broker.read(RECORDS, (topic,))
        ]

    def dead(self, handler: str | None = None) -> list[Record]:
        """The dead letters of a handler, by its full name, or of all."""
        return [letter for name in ([handler] if handler else self.groups) for letter in self.log(dead.topic_of(name))]

    @property
    def client(self) -> App:
        """An app in a process that nothing happens to: for `client.transaction()`, as another service would write."""
        return self._speaker.apps[-1]

    @property
    def random(self) -> Any:
        """The scenario's own luck."""
        return self._speaker.clock.chance

    @property
    def heard_types(self) -> dict[str, type[Any]]:
        """What handlers hear, by name."""
        return {name: cls for bound in self.bounds for name, cls in bound.types.items()}

    @property
    def told_types(self) -> set[str]:
        """The names of what handlers publish, as far as their annotations say."""
        return {contract_of(cls).name for bound in self.bounds for cls in bound.may_publish or ()}

    # -- the run

    def run(self, scenario: Callable[[Simulation], Any], verdict: Callable[[Simulation], Any]) -> None:
        """Play the scenario, heal, settle, and judge. Raises what does not hold."""
        before, failpoint.hit = failpoint.hit, self.hit
        try:
            self.loop.run_until_complete(self._play(scenario, verdict))
        finally:
            failpoint.hit = before
            for process in (*self._alive.values(), *([self._client] if self._client else []), *self._leaving):
                process.drop()
            self.loop.bury()

    async def _play(self, scenario: Callable[[Simulation], Any], verdict: Callable[[Simulation], Any]) -> None:
        await self._begin()
        await scenario(self)
        await self.settle()
        await verdict(self)
        self._raise_failures()

    # -- whether it is done

    def _left(self) -> Mapping[str, int]:
        wanted = set(self.groups)
        found = agenda.to_do(self._speaker.broker.read, float("inf"))
        return {name: count for name, count in found.items() if name in wanted or name == agenda.LOG}

    def _next_due(self) -> float | None:
        return agenda.next_due(self._speaker.broker.read, self._now)
