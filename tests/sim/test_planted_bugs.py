"""Would the simulator find it? Bugs of the kind that others had, planted in the engine: each is found, and shrunk.

How many seeds a bug may take is stated beside it. What is found is shrunk; most of it needs five choices or fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.sim import contested, shop
from tidings.broker import Delivery
from tidings.brokers import sqlite
from tidings.brokers.sqlite import SqliteBroker
from tidings.desk import Outcome
from tidings.embedded import group as groups
from tidings.embedded import hand, membership
from tidings.embedded.feed import Feed
from tidings.embedded.group import Group
from tidings.embedded.writer import Writer
from tidings.errors import Closed, Conflict, Fenced, StorageError
from tidings.inline import LoopLane
from tidings.lane import Lane
from tidings.stores.sqlite import SqliteScope, SqliteUnit
from tidings.testing.sim.faults import Faults
from tidings.testing.sim.node import SimClock, SimWriter
from tidings.testing.sim.shrink import shrunk
from tidings.testing.sim.trial import Invariant, Plan, Stage
from tidings.turns import Turns
from tidings.worker import Worker

SHOP = Plan(shop.apps, shop.flow, [Invariant(shop.each_took_effect_once, "settle")], tables=shop.TABLES)
FULL = msgspec.structs.replace(SHOP, faults=Faults.only("crash", "leave", "locked", "full_disk"))
Patch = pytest.MonkeyPatch


class Bug(NamedTuple):
    """What is planted, and within how many seeds it must be found."""

    plant: Callable[[Patch], None]
    seeds: int
    plan: Plan


BUGS: dict[str, Bug] = {}


def bug(seeds: int = 40, plan: Plan = SHOP) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    def add(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        BUGS[plant.__name__] = Bug(plant, seeds, plan)
        return plant

    return add


# -- acknowledgements and effects


def in_two_commits(first: str) -> Any:
    async def commit_once(self: Worker, deliveries: Any, batch: Any) -> None:
        assert self._subscription is not None
        acknowledge, effects = self.store.unit(), self.store.unit()
        effects.join([outcome.tx for outcome in batch if outcome.tx is not None])
        await self._broker.publish([record for outcome in batch for record in outcome.records], tx=effects)
        await self._subscription.ack(deliveries, tx=acknowledge)
        try:
            for unit in (acknowledge, effects) if first == "ack" else (effects, acknowledge):
                await unit.commit()
        except Conflict as conflict:
            conflict.args = (*conflict.args, {id(tx) for tx in effects.conflicts})
            raise

    return commit_once


@bug()
def acknowledged_before_its_effects(patch: Patch) -> None:
    patch.setattr(Worker, "_commit_once", in_two_commits("ack"))


@bug()
def acknowledged_after_its_effects(patch: Patch) -> None:
    patch.setattr(Worker, "_commit_once", in_two_commits("effects"))


@bug()
def a_failure_is_swallowed(patch: Patch) -> None:
    async def failed(self: Lane, delivery: Delivery, error: BaseException) -> None:
        self.desk.finished([Outcome(delivery)])

    patch.setattr(Lane, "failed", failed)


@bug()
def a_failed_event_is_forgotten(patch: Patch) -> None:
    async def hand_back(self: Worker, deliveries: Any, delay: float) -> None:
        pass

    patch.setattr(Worker, "hand_back", hand_back)


@bug()
def a_failed_handler_leaves_what_it_wrote(patch: Patch) -> None:
    patch.setattr(SqliteScope, "undo", lambda self, error: error)


@bug()
def what_conflicts_is_not_handled_again(patch: Patch) -> None:
    patch.setattr(Worker, "_again", lambda self, delivery: None)


@bug()
def rows_are_overwritten_unseen(patch: Patch) -> None:
    def apply(self: SqliteUnit, connection: Any) -> None:
        for tx in self._txs:
            tx.reads = {}
        genuine(self, connection)

    genuine = SqliteUnit._apply
    patch.setattr(SqliteUnit, "_apply", apply)


@bug()
def the_settler_dies_unnoticed(patch: Patch) -> None:
    async def settle_finished(self: Worker) -> None:
        try:
            while True:
                await self.have.wait()
                self.have.clear()
                done, batch = self.done.copy(), self.outcomes.copy()
                self.done.clear()
                self.outcomes.clear()
                await self._commit_once([*done, *(outcome.delivery for outcome in batch)], batch)
                self._settled([*done, *(outcome.delivery for outcome in batch)])
        except (StorageError, Fenced, Conflict):
            pass

    patch.setattr(Worker, "_settle_finished", settle_finished)


# -- order


@bug()
def two_lanes_handle_one_key(patch: Patch) -> None:
    def take(self: Turns, held: Any = ()) -> Delivery | None:
        return self.queue.popleft() if self.queue else None

    patch.setattr(Turns, "take", take)


@bug()
def later_ones_pass_one_that_is_tried_again(patch: Patch) -> None:
    async def nack(self: Group, deliveries: Any, delay: float = 0.0) -> None:
        await genuine(self, deliveries, delay)
        for feed in self.feeds.values():
            feed.held.clear()

    genuine = Group.nack
    patch.setattr(hand, "behind", lambda loans, key, pos: [])
    patch.setattr(groups, "HOLD_LATER", "UPDATE tidings_ack SET state = state WHERE feed = ? AND key = ? AND pos > ?")
    patch.setattr(Group, "nack", nack)


@bug(plan=contested.PLAN)
def what_came_before_an_event_that_was_handed_back_goes_before_the_next_one(patch: Patch) -> None:
    async def failed(self: Lane, delivery: Delivery, error: BaseException) -> None:
        await handed_back(self, delivery, error)
        left[self] = self.behind

    async def try_again(self: LoopLane, delivery: Delivery, error: BaseException | None) -> None:
        await genuine(self, delivery, error)
        self.behind = left.pop(self, self.behind)

    left: dict[Lane, int] = {}
    handed_back, genuine = Lane.failed, LoopLane._try_again
    patch.setattr(Lane, "failed", failed)
    patch.setattr(LoopLane, "_try_again", try_again)


# -- positions


@bug()
def the_position_passes_what_is_lent(patch: Patch) -> None:
    def watermark(lent: Any, cursor: int, acked: Any = frozenset()) -> int:
        return cursor

    for module in (groups, hand):
        patch.setattr(module, "watermark", watermark)


@bug()
def what_a_dead_member_held_is_skipped(patch: Patch) -> None:
    def hand_over(connection: Any, member: int, lent: Any, *, died: bool) -> None:
        for feed, _, part, low in connection.execute(
            "SELECT f.id, f.topic, p.part, p.pos FROM tidings_feed f JOIN tidings_position p ON p.feed = f.id "
            "JOIN tidings_part o ON o.grp = f.grp AND o.part = p.part WHERE o.owner = ?", (member,)
        ).fetchall():  # fmt: skip
            high = max(lent.read(feed, part), low)
            connection.execute(membership.ADVANCE, {"feed": feed, "part": part, "high": high})
        genuine(connection, member, lent, died=died)

    genuine = membership.hand_over
    patch.setattr(membership, "hand_over", hand_over)


@bug()
def a_new_owner_begins_at_the_end(patch: Patch) -> None:
    def look_for(self: Feed, parts: Any, positions: dict[int, int], before: Any) -> None:
        genuine(self, parts, dict.fromkeys(positions, max(positions.values(), default=0)), before)

    genuine = Feed.look_for
    patch.setattr(Feed, "look_for", look_for)


# -- membership


@bug()
def a_stale_owner_may_write(patch: Patch) -> None:
    async def rebalance(self: Group) -> None:
        self.stale = False
        if not self._mine.parts:
            await genuine(self)

    genuine = Group.rebalance
    patch.setattr(Group, "rebalance", rebalance)
    patch.setattr(Group, "_fence", lambda self, connection, mine: None)


@bug()
def parts_are_given_up_while_something_is_out(patch: Patch) -> None:
    patch.setattr(Group, "idle", property(lambda self: True))


@bug()
def leases_end_by_the_time_of_day(patch: Patch) -> None:
    patch.setattr(SimClock, "monotonic", SimClock.now)


@bug()
def nobody_looks_for_the_dead(patch: Patch) -> None:
    async def watch_members(self: SqliteBroker, seen: Any) -> Any:
        return seen

    patch.setattr(SqliteBroker, "_watch_members", watch_members)


@bug(plan=FULL)
def parts_that_could_not_be_claimed_are_left(patch: Patch) -> None:
    async def rebalance(self: Group) -> None:
        await self._rebalance()

    patch.setattr(Group, "rebalance", rebalance)


@bug(seeds=160, plan=contested.PLAN)
def who_leaves_settles_what_it_has_not_handled(patch: Patch) -> None:
    def hand_over(connection: Any, member: int, lent: Any, *, died: bool) -> None:
        with pytest.MonkeyPatch.context() as orderly:
            if not died:
                orderly.setattr(membership, "LENT_AGAIN", "SELECT :feed, :topic, :part, :low, :high, :died")
            genuine(connection, member, lent, died=died)

    genuine = membership.hand_over
    patch.setattr(membership, "hand_over", hand_over)


# -- publishing and the writer


@bug()
def publishers_are_told_before_the_commit(patch: Patch) -> None:
    def next_commit(self: SimWriter) -> None:
        for job in self._queued:
            if job.step is None and not job.future.done():
                job.future.set_result(None)
        genuine(self)

    genuine = SimWriter._next
    patch.setattr(SimWriter, "_next", next_commit)


@bug()
def an_error_of_a_commit_is_lost(patch: Patch) -> None:
    patch.setattr(Writer, "_fail", lambda self, jobs, error: None)


@bug()
def a_second_try_has_another_id(patch: Patch) -> None:
    def row(self: SqliteBroker, record: Any, topics: Any) -> Any:
        made = genuine(self, record, topics)
        count[0] += 1
        return (*made[:2], f"{record.id}~{count[0]}", *made[3:]) if record.headers.get("source") == "client" else made

    count = [0]
    genuine = SqliteBroker._row
    patch.setattr(SqliteBroker, "_row", row)


@bug()
def what_is_due_is_moved_in_two_commits(patch: Patch) -> None:
    async def move_due(self: SqliteBroker) -> float | None:
        now = self.clock.now()
        due = self.read(sqlite.NEXT_DUE)[0][0]
        if due is not None and due <= now:
            rows = self.read("SELECT topic, part, id, type, key, time, headers, body, crc FROM tidings_delay")
            await self.run(lambda connection: connection.execute("DELETE FROM tidings_delay"))
            await self.run(lambda connection: sqlite.append(connection, rows))
        return due

    patch.setattr(SqliteBroker, "_move_due", move_due)


@bug()
def a_wake_up_is_lost(patch: Patch) -> None:
    async def fetch(self: Group, limit: int, wait: float) -> Any:
        while not self._closed:
            if self.stale:
                await self.rebalance()
            if lent := await self._lend(limit):
                return lent
            self.wake.clear()
            self.waiting = True
            await self.wake.wait()
        raise Closed

    patch.setattr(Group, "fetch", fetch)


# -- the test


@pytest.fixture(scope="module")
def stages() -> Iterator[Callable[[Plan], Stage]]:
    opened: dict[int, Stage] = {}

    def stage(plan: Plan) -> Stage:
        if id(plan) not in opened:
            opened[id(plan)] = Stage(plan)
        return opened[id(plan)]

    yield stage
    for each in opened.values():
        each.close()


COUNTS: dict[str, int] = {}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, stages: Callable[[Plan], Stage], monkeypatch: Patch) -> None:
    planted = BUGS[name]
    stage = stages(planted.plan)
    planted.plant(monkeypatch)
    for seed in range(planted.seeds):
        outcome = stage.play(seed)
        if outcome.error is not None:
            assert isinstance(outcome.error, AssertionError), "found by what it broke in passing"
            least = shrunk(outcome, lambda choices: stage.play(seed, choices, rates=outcome.rates), most=60)  # noqa: B023
            COUNTS[name] = len(least.choices)
            print(
                f"{name}: seed {seed}, {len(outcome.choices)} choices, {COUNTS[name]} after shrinking: {least.error!r}"
            )
            return
    pytest.fail(f"not found within {planted.seeds} seeds")


def test_most_of_them_need_few_choices() -> None:
    if len(COUNTS) < len(BUGS):
        pytest.skip("needs all of the tests above")
    assert sum(count <= 5 for count in COUNTS.values()) > len(COUNTS) / 2
