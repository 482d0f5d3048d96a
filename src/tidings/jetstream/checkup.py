"""What the settings of a NATS server are worth, and those of the streams on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from tidings.jetstream.address import Address
from tidings.jetstream.naming import HEADROOM
from tidings.survey import KILLED, MACHINE, ORDER, POWER, Finding, Wish, kept_long, limited, names, once, size

ENOUGH = 3
"""Replicas of which one may be lost."""
FULL = 0.9


class Plan(msgspec.Struct):
    """How a stream is set up; `max_age` and `duplicate_window` in nanoseconds, what has no limit is 0 or less."""

    name: str
    storage: str = ""
    num_replicas: int = 1
    max_age: int = 0
    max_bytes: int = -1
    max_msgs: int = -1
    max_msgs_per_subject: int = -1
    discard: str = ""
    duplicate_window: int = 0
    metadata: dict[str, str] = {}


class Bounds(msgspec.Struct):
    """What is in a stream; the times are RFC 3339."""

    messages: int = 0
    bytes: int = 0
    first_ts: str = ""
    last_ts: str = ""
    last_seq: int = 0


class Peer(msgspec.Struct):
    """A server that has a copy of a stream."""

    name: str
    current: bool = False
    offline: bool = False


class Cluster(msgspec.Struct):
    """The servers that share a stream."""

    leader: str = ""
    replicas: list[Peer] = []


class Stream(msgspec.Struct):
    """A stream as the server lists it."""

    config: Plan
    state: Bounds = msgspec.field(default_factory=Bounds)
    cluster: Cluster = msgspec.field(default_factory=Cluster)


class Limits(msgspec.Struct):
    """What the account may use; -1 for all."""

    max_storage: int = -1


class Account(msgspec.Struct):
    """What the account uses, in bytes."""

    storage: int = 0
    limits: Limits = msgspec.field(default_factory=Limits)


class Disk(msgspec.Struct):
    """How JetStream writes; `sync_interval` in nanoseconds."""

    sync_interval: int = 0
    sync_always: bool = False


class Engine(msgspec.Struct):
    """JetStream, as the monitoring shows it."""

    config: Disk = msgspec.field(default_factory=Disk)


class Variables(msgspec.Struct):
    """What matters of the page /varz."""

    server_id: str = ""
    jetstream: Engine = msgspec.field(default_factory=Engine)


class Seen(msgspec.Struct, kw_only=True):
    """A server as it was seen: `writes` is None where its monitoring does not answer, `why` says why it is not."""

    version: str
    max_payload: int
    streams: Sequence[Stream]
    bucket: str
    account: Account
    writes: Disk | None
    why: str = ""


def examine(seen: Seen, address: Address, wish: Wish) -> Iterator[Finding]:
    """The findings, of the streams of this prefix."""
    copies = min([address.replicas, *(each.config.num_replicas for each in seen.streams)])
    yield Finding("server", "ok", f"NATS {seen.version}, with JetStream")
    yield _killed(seen)
    yield _power(seen, copies)
    yield _machine(seen, address, copies)
    yield Finding(ORDER, "ok", "a key is in one part, a part is with one member of a group at a time")
    topics = [each.config for each in seen.streams if each.config.name != seen.bucket]
    yield once(min([address.window, *(each.duplicate_window / 1e9 for each in topics)]), wish)
    yield kept_long(((each.name, each.max_age / 1e9 or float("inf")) for each in topics), wish)
    yield _caps(topics)
    yield _space(seen.account)
    yield limited(seen.max_payload - HEADROOM, wish, "raise `max_payload`")


def _killed(seen: Seen) -> Finding:
    forgetful = [each.config.name for each in seen.streams if each.config.storage != "file"]
    if forgetful:
        return Finding(KILLED, "bad", f"in memory only: {names(forgetful)}",
                       "delete the stream and let it be made anew, with file storage")  # fmt: skip
    return Finding(KILLED, "ok", "what was acknowledged is in files")


def _power(seen: Seen, copies: int) -> Finding:
    if copies >= ENOUGH:
        return Finding(POWER, "ok", f"{copies} servers have it before it is acknowledged; not all fail at once")
    if seen.writes is None:
        return Finding(POWER, "warn", f"unknown: {seen.why}",
                       "check for `sync_interval: always` in the server's `jetstream` block, or name its monitoring: "
                       "--monitor http://HOST:8222")  # fmt: skip
    if seen.writes.sync_always:
        return Finding(POWER, "ok", "on the disk before it is acknowledged (sync_interval: always)")
    return Finding(POWER, "warn", f"up to {seen.writes.sync_interval / 1e9:g} s of what was acknowledged is lost",
                   "set `sync_interval: always` in the server's `jetstream` block, or ?replicas=3")  # fmt: skip


def _machine(seen: Seen, address: Address, copies: int) -> Finding:
    behind = [
        f"{peer.name} ({each.config.name})"
        for each in seen.streams
        for peer in each.cluster.replicas
        if peer.offline or not peer.current
    ]
    if behind:
        return Finding(MACHINE, "warn", f"not all replicas are up to date: {names(behind)}", "bring them back")
    if copies >= ENOUGH:
        return Finding(MACHINE, "ok", f"{copies} servers have it before it is acknowledged")
    few = [each.config.name for each in seen.streams if each.config.num_replicas < ENOUGH]
    if address.replicas >= ENOUGH:
        return Finding(MACHINE, "warn", f"fewer than {ENOUGH} replicas: {names(few)}",
                       "a stream is as it was made: `nats stream edit --replicas 3`")  # fmt: skip
    return Finding(MACHINE, "warn", "there is one copy: all lives and dies with this server's disk"
                   if copies == 1 else f"{copies} copies: without one of them nothing is accepted",
                   "?replicas=3, on a cluster of three")  # fmt: skip


def _caps(topics: Sequence[Plan]) -> Finding:
    """A limit of what a stream holds: the oldest go, or what is new is refused."""
    capped = [each for each in topics if max(each.max_bytes, each.max_msgs, each.max_msgs_per_subject) > 0]
    dropping = [each.name for each in capped if each.discard != "new" or each.max_msgs_per_subject > 0]
    if dropping:
        return Finding("limits", "bad", f"what a group has yet to do is dropped when it is full: {names(dropping)}",
                       "take out max_bytes, max_msgs and max_msgs_per_subject, or set discard to new")  # fmt: skip
    if capped:
        full = names([each.name for each in capped])
        return Finding("limits", "ok", f"publishing fails when it is full: {full}")
    return Finding("limits", "ok", "no stream drops what is old before its time")


def _space(account: Account) -> Finding:
    most = account.limits.max_storage
    if most > 0 and account.storage > FULL * most:
        return Finding("storage", "warn", f"{size(account.storage)} of {size(most)} are used; then publishing fails",
                       "raise the account's `max_file`, or keep less (`keep`)")  # fmt: skip
    limit = f" of {size(most)}" if most > 0 else ", without a limit of the account"
    return Finding("storage", "ok", f"{size(account.storage)} used{limit}")
