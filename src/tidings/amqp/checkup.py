"""What the settings of a RabbitMQ server are worth: little of them is told to a client, more to the management."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tidings.survey import KILLED, MACHINE, ORDER, POWER, REPLAY, Finding, Wish, limited, names, once

ADVISED = (3, 10)
ENOUGH = 3
"""Members of a quorum queue of which one may be lost."""
HINT = "--monitor http://HOST:15672, where the management plugin is on"
HARMFUL = ("delivery-limit", "dead-letter-exchange", "message-ttl", "expires", "max-length", "max-length-bytes")
"""What a policy may do to queues that hold what a group has yet to do."""


class Queue(msgspec.Struct):
    """A queue as the management shows it."""

    name: str
    type: str = ""
    members: list[str] = []
    online: list[str] = []
    effective_policy_definition: dict[str, Any] | None = None


class Node(msgspec.Struct):
    """A node of the cluster."""

    name: str
    running: bool = False
    mem_alarm: bool = False
    disk_free_alarm: bool = False


class Managed(msgspec.Struct):
    """What the management knows: the nodes, and the queues of our prefix."""

    nodes: list[Node]
    queues: list[Queue]


class Seen(msgspec.Struct, kw_only=True):
    """A server as it was seen. `blocked` says why nothing may be published just now, `why` why nothing is managed."""

    version: tuple[int, ...]
    limit: int
    blocked: str | None
    managed: Managed | None
    why: str = ""


def examine(seen: Seen, wish: Wish) -> Iterator[Finding]:
    """The findings."""
    yield _server(seen.version)
    yield Finding(KILLED, "ok", "what was acknowledged is in quorum queues, on the disk")
    yield Finding(POWER, "ok", "on the disk before it is acknowledged: quorum queues wait for it")
    yield _machine(seen)
    yield Finding(ORDER, "ok", "a key is in one queue, a queue is with one member of a group at a time")
    yield once(None, wish)
    yield Finding(REPLAY, "warn", "none: a queue forgets what is acknowledged, and there is no log to go back in",
                  "where groups have to go back, take another broker: see `which broker` in the guide")  # fmt: skip
    yield _alarms(seen)
    yield from _queues(seen)
    yield limited(seen.limit, wish, "raise `max_message_size`")


def _server(version: Sequence[int]) -> Finding:
    told = f"RabbitMQ {'.'.join(map(str, version))}"
    if tuple(version) < ADVISED:
        return Finding("server", "warn", f"{told}: quorum queues were young then", "update to 3.10 or later")
    return Finding("server", "ok", told)


def _alarms(seen: Seen) -> Finding:
    nodes = seen.managed.nodes if seen.managed is not None else []
    short = [node.name for node in nodes if node.mem_alarm or node.disk_free_alarm]
    if seen.blocked is not None or short:
        where = f" on {names(short)}" if short else ""
        return Finding("alarms", "bad", f"nothing can be published: {seen.blocked or 'memory or disk'}{where}",
                       "free memory or disk, or see `vm_memory_high_watermark` and `disk_free_limit`")  # fmt: skip
    return Finding("alarms", "ok", "there is memory and space on the disk")


def _machine(seen: Seen) -> Finding:
    if seen.managed is None:
        return Finding(MACHINE, "warn", f"unknown: {seen.why}",
                       f"`rabbitmqctl list_queues name type members` shows three for each; or {HINT}")  # fmt: skip
    down = [node.name for node in seen.managed.nodes if not node.running]
    lacking = [queue.name for queue in seen.managed.queues if len(queue.online) < len(queue.members)]
    if down or lacking:
        return Finding(MACHINE, "warn", f"not everything is there: {names(down + lacking)}", "bring the nodes back")
    few = [queue.name for queue in seen.managed.queues if len(queue.members) < ENOUGH]
    if few or len(seen.managed.nodes) < ENOUGH:
        count = len(seen.managed.nodes)
        detail = f"fewer than {ENOUGH} members: {names(few)}" if few else f"{count} of {ENOUGH} nodes for quorum queues"
        return Finding(MACHINE, "warn", detail, "a cluster of three; `rabbitmq-queues grow` adds members to queues")
    return Finding(MACHINE, "ok", f"each queue has {ENOUGH} members, most of which have it before it is acknowledged")


def _queues(seen: Seen) -> Iterator[Finding]:
    if seen.managed is None:
        rules = ", ".join(HARMFUL)
        yield Finding("queues", "warn", f"unknown: {seen.why}",
                      f"no policy may set {rules} on tidings.*: `rabbitmqctl list_policies`; or {HINT}")  # fmt: skip
        return
    classic = [queue.name for queue in seen.managed.queues if queue.type != "quorum"]
    if classic:
        yield Finding(
            "queues", "bad", f"no quorum queue: {names(classic)}", "delete it when it is empty: it is made anew"
        )
    ruled = {
        queue.name: sorted(found)
        for queue in seen.managed.queues
        if (found := (queue.effective_policy_definition or {}).keys() & set(HARMFUL))
    }
    if ruled:
        broken = ", ".join(sorted({rule for rules in ruled.values() for rule in rules}))
        yield Finding("queues", "bad", f"a policy may drop what is still to be done: {broken} on {names(list(ruled))}",
                      "`rabbitmqctl clear_policy`")  # fmt: skip
    if not classic and not ruled:
        yield Finding("queues", "ok", f"{len(seen.managed.queues)} quorum queues, and no policy that drops messages")
