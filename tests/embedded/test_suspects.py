"""What was out when a member died: lent again so that a record which kills is found, and the others soon go on."""

from tidings.broker import Delivery, Record, Subscription
from tidings.brokers.sqlite import SqliteBroker
from tidings.embedded.group import Group
from tidings.embedded.hand import TOGETHER
from tidings.embedded.membership import bury_members

MANY = TOGETHER + 36


async def die(broker: SqliteBroker, member: Subscription) -> None:
    """As another process sees it whose housekeeping finds this member dead."""
    assert isinstance(member, Group)
    await broker.run(lambda connection: bury_members(connection, [member.member], broker.lent))
    broker.forget(member)


async def with_many_out(broker: SqliteBroker) -> Subscription:
    member = await broker.subscribe(["t"], "g")
    await broker.publish([Record("t", b"{}", key=f"k{n:03}", type="t.t", id=f"r{n:03}") for n in range(MANY)])
    assert len(await member.fetch(MANY, 1.0)) == MANY
    return member


def attempts(deliveries: list[Delivery]) -> set[int]:
    return {delivery.attempt for delivery in deliveries}


async def test_what_saw_one_death_comes_in_company_but_with_nothing_else_beside_it(broker: SqliteBroker) -> None:
    await die(broker, await with_many_out(broker))
    await broker.publish([Record("t", b"{}", key="new", type="t.t", id="new")])
    heir = await broker.subscribe(["t"], "g")
    company = list(await heir.fetch(MANY, 0.0))
    assert (len(company), attempts(company)) == (TOGETHER, {2})
    await heir.ack(company[:-1])
    assert not await heir.fetch(MANY, 0.0), "one of them is still out"
    await heir.ack(company[-1:])
    rest = list(await heir.fetch(MANY, 0.0))
    assert (len(rest), attempts(rest)) == (MANY - TOGETHER, {2})
    await heir.ack(rest)
    assert [delivery.record.id for delivery in await heir.fetch(MANY, 0.0)] == ["new"]


async def test_what_saw_two_deaths_comes_alone(broker: SqliteBroker) -> None:
    await die(broker, await with_many_out(broker))
    second = await broker.subscribe(["t"], "g")
    assert len(await second.fetch(MANY, 0.0)) == TOGETHER
    await die(broker, second)
    heir = await broker.subscribe(["t"], "g")
    for number in range(TOGETHER):
        (alone,) = await heir.fetch(MANY, 0.0)
        assert (alone.record.id, alone.attempt) == (f"r{number:03}", 3)
        assert not await heir.fetch(MANY, 0.0)
        await heir.ack([alone])
    rest = list(await heir.fetch(MANY, 0.0))
    assert (len(rest), attempts(rest)) == (MANY - TOGETHER, {2})
