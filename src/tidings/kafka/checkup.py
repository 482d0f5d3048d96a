"""What the settings of a Kafka cluster are worth, and those of the topics on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tidings.kafka.offsets import RESERVED
from tidings.survey import DAY, KILLED, MACHINE, ORDER, POWER, Finding, Wish, kept_long, limited, names, once

ENOUGH = 2
"""Copies that have to be written before a record counts as kept."""
METADATA = 4096
"""Bytes for what a group remembers of a partition."""
EVERY = "log.flush.interval.messages"
COMPACTED = "compact"

Told = Mapping[str, str]


class Copies(NamedTuple):
    """How the partitions of a topic are copied: the fewest replicas, how many lag behind, how many have no leader."""

    replicas: int
    behind: int
    without_leader: int


class Seen(NamedTuple):
    """A cluster as it was seen: settings of each broker and topic, and how each topic is copied.

    `offsets` is how the topic is copied in which groups are remembered; None where there is none yet.
    """

    brokers: Mapping[int, Told]
    topics: Mapping[str, Told]
    copies: Mapping[str, Copies]
    offsets: Copies | None
    lease: float
    newer: bool
    replication: int


def examine(seen: Seen, wish: Wish) -> Iterator[Finding]:
    """The findings, of the topics of this prefix."""
    told = next(iter(seen.brokers.values()))
    yield _server(seen, told)
    yield Finding(KILLED, "ok", "what was acknowledged is with the operating system (acks=all)")
    yield _power(seen, told)
    yield _machine(seen, told)
    yield from _partitions(seen.copies)
    yield _elections(seen, told)
    yield Finding(ORDER, "ok", "a key is in one partition, a partition is with one member of a group at a time")
    yield once(None, wish)
    yield kept_long(((name, _kept(each)) for name, each in seen.topics.items()), wish)
    yield _dropped(seen)
    if told:
        yield _groups(seen, told)
        yield _made_by_others(told)
    largest = [int(each["max.message.bytes"]) for each in seen.topics.values() if "max.message.bytes" in each]
    yield limited(min([*largest, int(told.get("message.max.bytes", 1 << 20))]) - RESERVED, wish,
                  "raise `max.message.bytes` of the topic (`message.max.bytes` of the brokers)")  # fmt: skip


def _server(seen: Seen, told: Told) -> Finding:
    name = f"Kafka, {_counted(len(seen.brokers), 'broker')}"
    silent = ["the brokers"] if not told else []
    silent += [topic for topic, each in seen.topics.items() if not each]
    if silent:
        return Finding("server", "warn", f"{name}; this user is not told the settings of {names(silent)}",
                       "an ACL has to grant DescribeConfigs on the cluster and the topics")  # fmt: skip
    return Finding("server", "ok", f"{name}; group protocols: {_protocols(told)}")


def _protocols(told: Told) -> str:
    return told.get("group.coordinator.rebalance.protocols", "classic")


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _weak(seen: Seen, told: Told) -> list[str]:
    """Topics of which a record may be acknowledged when it is in one place only; "new topics" where those would be."""
    usual = int(told.get("default.replication.factor", 1)) if seen.replication < 1 else seen.replication
    weak = [] if min(usual, int(told.get("min.insync.replicas", 1))) >= ENOUGH else ["new topics"]
    for name, each in seen.topics.items():
        least = int(each.get("min.insync.replicas", 1))
        if min(seen.copies[name].replicas, least) < ENOUGH:
            weak.append(name)
    return weak


def _power(seen: Seen, told: Told) -> Finding:
    weak = _weak(seen, told)
    flushed = all(each.get(EVERY) == "1" for each in [told, *seen.topics.values()][: 1 if not seen.topics else None])
    if flushed:
        return Finding(POWER, "ok", f"on the disk before it is acknowledged ({EVERY}=1)")
    if weak:
        return Finding(POWER, "warn", f"what the system has not written is lost: {names(weak)}",
                       "replication 3 and min.insync.replicas=2, so that others have it")  # fmt: skip
    return Finding(POWER, "ok", f"{ENOUGH} brokers have it before it is acknowledged; not all fail at once")


def _machine(seen: Seen, told: Told) -> Finding:
    weak = _weak(seen, told)
    if seen.offsets is not None and seen.offsets.replicas < ENOUGH:
        weak.append("__consumer_offsets, where groups stand")
    if weak:
        detail = f"acknowledged in one place only: {names(weak)}"
        remedy = "replication 3 (?replication=3 for topics that are made) and min.insync.replicas=2"
        return Finding(MACHINE, "warn", detail, remedy)
    return Finding(MACHINE, "ok", f"{ENOUGH} brokers at least have it before it is acknowledged")


def _partitions(copies: Mapping[str, Copies]) -> Iterator[Finding]:
    headless = [name for name, each in copies.items() if each.without_leader]
    behind = [name for name, each in copies.items() if each.behind]
    if headless:
        yield Finding("partitions", "bad", f"without a leader, so that nothing goes on: {names(headless)}",
                      "bring its brokers back")  # fmt: skip
    elif behind:
        yield Finding("partitions", "warn", f"not all replicas are in sync: {names(behind)}", "see to its brokers")
    else:
        yield Finding("partitions", "ok", "each has a leader, and its replicas are in sync")


def _elections(seen: Seen, told: Told) -> Finding:
    name = "unclean.leader.election.enable"
    loose = [topic for topic, each in seen.topics.items() if each.get(name) == "true"]
    loose += ["new topics"] if told.get(name) == "true" else []
    if loose:
        return Finding("elections", "bad", f"a broker that is behind may become leader and forget what was "
                       f"acknowledged: {names(loose)}", f"set `{name}=false`")  # fmt: skip
    return Finding("elections", "ok", "only a broker that has everything becomes leader")


def _kept(topic: Told) -> float:
    """For how many seconds a topic keeps records."""
    milliseconds = int(topic.get("retention.ms", -1))
    return float("inf") if milliseconds < 0 else milliseconds / 1000


def _dropped(seen: Seen) -> Finding:
    """What goes before it was handled, for other reasons than its age."""
    compacted = [name for name, each in seen.topics.items() if COMPACTED in each.get("cleanup.policy", "")]
    if compacted:
        return Finding("limits", "bad", f"all but the last of a key is forgotten: {names(compacted)}",
                       "set `cleanup.policy=delete`")  # fmt: skip
    capped = [name for name, each in seen.topics.items() if int(each.get("retention.bytes", -1)) >= 0]
    if capped:
        return Finding("limits", "warn", f"the oldest go when it is full, handled or not: {names(capped)}",
                       "set `retention.bytes=-1`")  # fmt: skip
    return Finding("limits", "ok", "records go by their age, handled or not")


def _groups(seen: Seen, told: Told) -> Finding:
    protocols = _protocols(told)
    if seen.newer and "consumer" not in protocols.split(","):
        return Finding("groups", "bad", f"`group.protocol=consumer` is asked for, and there are: {protocols}",
                       "Kafka 4.0 has it; or leave the option out")  # fmt: skip
    least, most = (int(told.get(f"group.{end}.session.timeout.ms", usual)) / 1000
                   for end, usual in (("min", 6000), ("max", 1_800_000)))  # fmt: skip
    if not seen.newer and not least <= seen.lease <= most:
        return Finding("groups", "bad", f"a lease of {seen.lease:g} s is not allowed: from {least:g} to {most:g} s",
                       "?lease=, or `group.min.session.timeout.ms` and `group.max.session.timeout.ms`")  # fmt: skip
    if int(told.get("offset.metadata.max.bytes", METADATA)) < METADATA:
        return Finding("groups", "bad", "there is too little room for what a group remembers",
                       f"set `offset.metadata.max.bytes={METADATA}`")  # fmt: skip
    days = int(told.get("offsets.retention.minutes", 10080)) * 60 / DAY
    if days < 1:
        return Finding("groups", "warn", f"a group that is away for {days * 24:.3g} hours is forgotten",
                       "raise `offsets.retention.minutes`")  # fmt: skip
    return Finding("groups", "ok", f"a group is remembered for {days:.3g} days after it was last there")


def _made_by_others(told: Told) -> Finding:
    if told.get("auto.create.topics.enable") == "true":
        return Finding("new topics", "warn", "any client that misspells a topic makes one, with "
                       f"{_counted(int(told.get('num.partitions', 1)), 'partition')}",
                       "set `auto.create.topics.enable=false`: ours are declared")  # fmt: skip
    return Finding("new topics", "ok", "only those that are declared are made")


def described(partitions: Sequence[tuple[int, int, int]]) -> Copies:
    """From the leader, the replicas and those in sync of each partition."""
    return Copies(
        replicas=min((replicas for _, replicas, _ in partitions), default=0),
        behind=sum(in_sync < replicas for _, replicas, in_sync in partitions),
        without_leader=sum(leader < 0 for leader, _, _ in partitions),
    )
