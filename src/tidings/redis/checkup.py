"""What the settings of a Redis or Valkey server are worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tidings.redis.address import Address
from tidings.redis.naming import LARGEST
from tidings.survey import KILLED, MACHINE, ORDER, POWER, REPLAY, Finding, Wish, limited, once, size

FULL = 0.9
"""The part of its memory from which on a server is nearly full."""
UNKNOWN = "let the user ask: `ACL SETUSER ... +config|get +info`"

Told = Mapping[str, str]


def examine(told: Told, info: Told, address: Address, wish: Wish) -> Iterator[Finding]:
    """`told` is what CONFIG GET says, `info` what INFO says; nothing where the user may not ask."""
    yield _server(info)
    yield _killed(told, info)
    yield _power(told, info)
    yield _machine(told, info, address)
    yield Finding(ORDER, "ok", "a key is in one part, a part is with one member of a group at a time")
    yield once(address.window, wish)
    yield Finding(REPLAY, "ok", "a group can go back to all that is kept; what a group has yet to do always is")
    yield _memory(told, info)
    yield limited(int(told.get("proto-max-bulk-len", LARGEST)), wish, "raise `proto-max-bulk-len`")


def _server(info: Told) -> Finding:
    if not info:
        return Finding("server", "warn", "it does not tell about itself (`INFO` is not allowed)", UNKNOWN)
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "of unknown version")
    if info.get("server_mode", info.get("redis_mode")) == "cluster":
        return Finding("server", "warn", f"{name} {version}, a node of a cluster: topics on other nodes are not found",
                       "name a server that is no cluster")  # fmt: skip
    return Finding("server", "ok", f"{name} {version}")


def _appends(told: Told, info: Told) -> bool | None:
    said = told.get("appendonly") or {"1": "yes", "0": "no"}.get(info.get("aof_enabled", ""))
    return None if said is None else said == "yes"


def _killed(told: Told, info: Told) -> Finding:
    appends = _appends(told, info)
    if appends is None:
        return Finding(KILLED, "warn", "unknown: the server does not tell whether it has a log", UNKNOWN)
    if not appends:
        return Finding(KILLED, "bad", "what was acknowledged is in memory only (appendonly no)",
                       "set `appendonly yes` and `appendfsync always`")  # fmt: skip
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding(KILLED, "bad", "the server cannot write its log just now", "see its own log: is the disk full?")
    return Finding(KILLED, "ok", "what was acknowledged is in the log (appendonly yes)")


def _power(told: Told, info: Told) -> Finding:
    if _appends(told, info) is False:
        return Finding(POWER, "bad", "nothing is on the disk", "set `appendonly yes` and `appendfsync always`")
    policy = told.get("appendfsync")
    if policy is None:
        return Finding(POWER, "warn", "unknown: the server does not tell `appendfsync`", UNKNOWN)
    if policy == "always":
        return Finding(POWER, "ok", "on the disk before it is acknowledged (appendfsync always)")
    lost = "up to a second" if policy == "everysec" else "all that the system has not written, half a minute perhaps,"
    return Finding(POWER, "warn", f"{lost} of what was acknowledged is lost (appendfsync {policy})",
                   "set `appendfsync always`")  # fmt: skip


def _machine(told: Told, info: Told, address: Address) -> Finding:
    have, wanted = int(info.get("connected_slaves", 0)), address.replicas
    least = int(told.get("min-replicas-to-write", 0))
    if have < max(wanted, least):
        return Finding(MACHINE, "bad", f"{have} of {max(wanted, least)} replicas are there: nothing can be published",
                       "bring them back, or ask for less: ?replicas=, `min-replicas-to-write`")  # fmt: skip
    if wanted:
        return Finding(MACHINE, "ok", f"on {wanted} replicas before it is acknowledged (?replicas=), {have} connected")
    if have:
        return Finding(MACHINE, "warn", f"a failover to one of {have} replicas loses what has not reached it",
                       "wait for them: ?replicas=1")  # fmt: skip
    return Finding(MACHINE, "warn", "there is no replica: all lives and dies with this server's disk",
                   "add a replica, and ?replicas=1")  # fmt: skip


def _memory(told: Told, info: Told) -> Finding:
    policy = told.get("maxmemory-policy") or info.get("maxmemory_policy")
    most = int(told.get("maxmemory") or info.get("maxmemory") or 0)
    used = int(info.get("used_memory", 0))
    if policy is None:
        return Finding("memory", "warn", "unknown: the server does not tell `maxmemory-policy`", UNKNOWN)
    if policy != "noeviction":
        when = "when memory is full" if most else "as soon as `maxmemory` is set"
        return Finding("memory", "bad" if most else "warn", f"whole parts of topics are evicted {when} ({policy})",
                       "set `maxmemory-policy noeviction`")  # fmt: skip
    if most and used > FULL * most:
        return Finding("memory", "warn", f"{size(used)} of {size(most)} are used; when it is full publishing fails",
                       "raise `maxmemory`, keep less (`keep`), or see which group is behind")  # fmt: skip
    limit = f" of {size(most)}" if most else ""
    return Finding("memory", "ok", f"nothing is evicted; {size(used)}{limit} used")
