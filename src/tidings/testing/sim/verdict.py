"""What must hold at the end of every run, whatever the apps do: see the invariants in docs/reliability.md."""

from __future__ import annotations

from collections import Counter

from tidings.testing.sim.simulation import Simulation

SETTLED = "SELECT grp, topic, id, key, pos, process FROM sim_settled ORDER BY seq"
OWED = """SELECT g.name, t.name, l.id FROM tidings_feed f JOIN tidings_group g ON g.id = f.grp
    JOIN tidings_topic t ON t.id = f.topic JOIN tidings_log l ON l.topic = t.id"""


class Violated(AssertionError):
    """Something that must hold does not."""


async def judge(simulation: Simulation) -> None:
    """Raise Violated where something was lost, doubled, made up or out of order."""
    _kept(simulation)
    _settled_once(simulation)
    _in_order(simulation)


def _kept(simulation: Simulation) -> None:
    """What was published is in the log, once."""
    for topic in sorted({topic for topic, _ in simulation.attempted}):
        found = Counter(record.id for record in simulation.log(topic))
        for of, id in simulation.attempted:
            if of == topic and found[id] != 1:
                raise Violated(f"{id} was published to {topic} and is there {found[id]} times")


def _settled_once(simulation: Simulation) -> None:
    """Each handler has settled each event once: with its effects, or as a dead letter."""
    wanted = set(simulation.groups)
    owed = {(group, topic, id) for group, topic, id in simulation.sql(OWED) if group in wanted}
    times = Counter((group, topic, id) for group, topic, id, *_ in simulation.sql(SETTLED))
    for at in sorted(owed | times.keys()):
        if times[at] != (at in owed):
            group, topic, id = at
            raise Violated(f"{group} has settled {id} of {topic} {times[at]} times")


def _in_order(simulation: Simulation) -> None:
    """The events of a key are settled in the order of the log."""
    last: dict[tuple[str, str, str], tuple[int, str]] = {}
    for group, topic, id, key, pos, _ in simulation.sql(SETTLED):
        if key is None:
            continue
        before, earlier = last.get((group, topic, key), (0, ""))
        if pos < before:
            raise Violated(f"{group} has settled {id} of {topic} after {earlier}, a later one of the key {key!r}")
        last[group, topic, key] = (pos, id)
