"""What the tests of Redis share: links, and a member that says nothing more."""

import contextlib

from tests.lifetime import kept_open
from tidings.brokers.redis import RedisLink
from tidings.clock import Clock
from tidings.dev import Valkey
from tidings.link import Line


def opened(
    server: Valkey, prefix: str, more: str = "", *, lease: float = 3.0, keep: float | None = None
) -> contextlib.AbstractAsyncContextManager[RedisLink]:
    return kept_open(RedisLink(f"{server.url}?prefix={prefix}{more}", Clock(), lease=lease, keep=keep))


def silence(link: RedisLink, line: Line) -> None:
    """As SIGSTOP does: it gives no sign of life any more, and does not know that."""
    steward = line._steward  # type: ignore[attr-defined]
    steward.stop()
    steward._tending = None
    line._ears.close()  # type: ignore[attr-defined]
    link._lines.pop(line)
