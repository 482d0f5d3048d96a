"""Who may come in: a connection that works, and one that is refused with a sentence that shows no secret."""

import asyncio
from pathlib import Path
from secrets import token_hex

import pytest

from tidings.broker import Delivery, Record
from tidings.errors import BrokerError
from tidings.link import Link

SECRET = "s3cr3t%"
CODED = "s3cr3t%25"
"""As it is written in a URL."""


class Papers:
    """Certificates as options of a URL; `names` are what it calls authority, certificate and key."""

    def __init__(self, certificates: Path, names: tuple[str, str, str] = ("ca", "cert", "key")) -> None:
        self._certificates = certificates
        authority, self._certificate, self._key = names
        self.ca = f"{authority}={certificates / 'ca.pem'}"

    def of(self, name: str) -> str:
        """What signs in as this one."""
        return f"{self._certificate}={self._certificates / name}.pem&{self._key}={self._certificates / name}.key"


async def works(link: Link) -> None:
    """What is published comes to a group, and to a view."""
    await link.open()
    try:
        for group in ("shop.reserve", None):
            line = await link.join(["order"], group)
            await _publish(link)
            got: list[Delivery] = []
            async with asyncio.timeout(30):
                while len(got) < 3:
                    got += await line.fetch(3, 1.0)
            await line.done(got)
            await line.close()
            assert {each.record.key for each in got} == {"k0", "k1", "k2"}
    finally:
        await link.close()


async def refused(link: Link, why: str) -> None:
    """It cannot be opened, or nothing can be published with it; what is said has one line and not the secret."""
    try:
        with pytest.raises(BrokerError, match=why) as told:
            await _enter(link)
    finally:
        await link.close()
    for text in (str(told.value), repr(told.value), repr(told.value.__cause__), repr(link)):
        assert "s3cr3t" not in text
    assert "\n" not in str(told.value)


async def _enter(link: Link) -> None:
    await link.open()
    await _publish(link)


async def _publish(link: Link) -> None:
    await link.declare("order", ["shop.reserve"])
    await link.publish([Record("order", b"body", f"k{n}", "order.created", token_hex(8), 1e9) for n in range(3)])
