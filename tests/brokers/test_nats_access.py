"""Who may connect to NATS and how, and what is said to who may not."""

import asyncio
import base64
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import nkeys
import pytest

from tests.brokers import access
from tests.brokers.links import own, records
from tidings.brokers.nats import NatsLink
from tidings.clock import Clock
from tidings.dev import Nats
from tidings.errors import ConfigError, PublishFailed
from tidings.jetstream import address
from tidings.jetstream.connection import refusal

USER = {"user": "shop", "password": "s3cr3t%"}


def started(folder: Path, **settings: Any) -> Nats:
    server = Nats(folder, settings=settings)
    server.start()
    return server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """Users with a password, with an NKey, and one who may read only."""
    seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "seed").write_bytes(seed)
    reader = {"user": "reader", "password": "r", "permissions": {"publish": {"deny": "own.order.>"}}}
    users = [USER, {"nkey": nkeys.from_seed(seed).public_key.decode()}, reader]
    server = started(folder, authorization={"users": users})
    yield server
    server.close()


async def works(url: str) -> None:
    await access.works(NatsLink(f"{url}{'&' if '?' in url else '?'}prefix={own()}", Clock()))


async def refused(url: str, why: str) -> None:
    await access.refused(NatsLink(url, Clock()), why)


async def test_a_password_is_needed(guarded: Nats) -> None:
    await works(f"nats://shop:s3cr3t%25@127.0.0.1:{guarded.port}")
    await refused(f"nats://shop:s3cr3t@127.0.0.1:{guarded.port}", "refuses these user and password")
    await refused(guarded.url, "refuses these credentials")


async def test_an_nkey_is_as_good(guarded: Nats) -> None:
    await works(f"{guarded.url}?nkey={guarded.folder / 'seed'}")
    other = guarded.folder / "other"
    other.write_bytes(nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER))
    await refused(f"{guarded.url}?nkey={other}", "refuses these credentials")


def claims(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, told: dict[str, Any]) -> str:
    """A JWT as NATS has it."""

    def coded(text: bytes) -> str:
        return base64.urlsafe_b64encode(text).rstrip(b"=").decode()

    body = {"jti": "1", "iat": 1, "iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "name": "n"}
    signed = ".".join(
        coded(msgspec.json.encode(part))
        for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body | {"nats": told | {"version": 2}})
    )
    return f"{signed}.{coded(issuer.sign(signed.encode()))}"


async def test_the_credentials_of_a_jwt_are_as_good(tmp_path: Path) -> None:
    kinds = (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
    seeds = [nkeys.encode_seed(bytes([n] * 32), kind) for n, kind in enumerate(kinds)]
    operator, system, account, user = map(nkeys.from_seed, seeds)
    free = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    limits = free | {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "wildcards": True}
    accounts = {
        system.public_key.decode(): claims(operator, system, {"type": "account", "limits": free}),
        account.public_key.decode(): claims(operator, account, {"type": "account", "limits": limits}),
    }
    settings = {
        "operator": claims(operator, operator, {"type": "operator"}), "system_account": system.public_key.decode(),
        "resolver": "MEMORY", "resolver_preload": accounts,
    }  # fmt: skip
    for name, issuer in (("good", account), ("bad", system)):
        jwt = claims(issuer, user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
        (tmp_path / name).write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seeds[3].decode()}\n------END USER NKEY SEED------\n"
        )
    with started(tmp_path / "jwt", **settings) as server:
        await works(f"{server.url}?creds={tmp_path / 'good'}")
        await refused(f"{server.url}?creds={tmp_path / 'bad'}", "JetStream")
        await refused(server.url, "refuses these credentials")


async def test_a_token_is_as_good(tmp_path: Path) -> None:
    with started(tmp_path / "token", authorization={"token": "s3cr3t"}) as server:
        await works(f"nats://s3cr3t@127.0.0.1:{server.port}")
        await works(f"{server.url}?token=s3cr3t")
        await refused(f"{server.url}?token=wrong", "refuses these credentials")


async def test_who_may_not_publish_is_told_so(guarded: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.jetstream.server.MANY", 1.0)
    link = NatsLink(f"nats://reader:r@127.0.0.1:{guarded.port}?prefix=own", Clock())
    await link.open()
    with pytest.raises(PublishFailed, match="permissions violation"):
        await link.publish(records(2))
    await link.close()


async def test_tls_is_checked_in_both_directions(certificates: Path, tmp_path: Path) -> None:
    names = {"cert_file": "server.pem", "key_file": "server.key", "ca_file": "ca.pem"}
    tls = {name: str(certificates / file) for name, file in names.items()} | {"verify": True}
    papers = access.Papers(certificates)
    with started(tmp_path / "tls", tls=tls) as server:
        await works(f"tls://127.0.0.1:{server.port}?{papers.ca}&{papers.of('client')}")
        await refused(f"tls://127.0.0.1:{server.port}?{papers.of('client')}", "its certificate or ours is not accepted")
        for nobody in ("", papers.of("stranger")):
            url = f"tls://127.0.0.1:{server.port}?{papers.ca}&{nobody}"
            await refused(url, r"see .*\?cert= and \?key=")
        await refused(server.url, "certificate")


@pytest.mark.parametrize("left", [BrokenPipeError(32, "Broken pipe"), ssl.SSLError(1, "tlsv1 alert unknown ca")])
def test_a_refusal_of_which_little_is_left_names_the_certificate(left: OSError) -> None:
    tls = address.parse("tls://h")
    told = refusal(tls.servers[0], left, tls)
    assert str(told).startswith("NATS at h:4222")
    assert "?cert= and ?key=" in str(told)


async def test_a_server_without_tls_is_told_no_secret(nats_server: Nats) -> None:
    await refused(f"tls://shop:s3cr3t@127.0.0.1:{nats_server.port}", "offers no TLS, so nothing was sent")
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.15.1","max_payload":1048576,"headers":true}\r\n')
        heard.put_nowait(await reader.read())
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as plain:
        port = plain.sockets[0].getsockname()[1]
        await refused(f"nats://shop:s3cr3t@127.0.0.1:{port}?tls=yes", "offers no TLS")
        assert await heard.get() == b""


async def test_a_server_that_is_absent_or_too_old_or_without_jetstream_is_told(tmp_path: Path) -> None:
    await refused("nats://127.0.0.1:1", "cannot be reached")

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version":"2.9.0","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(old, "127.0.0.1", 0) as server:
        await refused(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", "version 2.9: update it to 2.11")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nats://", "a NATS address is"),
        ("nats://h/path", "a NATS address is"),
        ("nats://h:port", "nats://h:port: a NATS address is"),
        ("nats://h,", "a NATS address is"),
        ("nats://shop:s3cr3t?@h", "in a password .* are written"),
        ("nats://h?colour=red", "unknown option 'colour'"),
        ("nats://h?parts=0", "parts=0 does not fit"),
        ("nats://h?prefix=a.b", "prefix=a.b does not fit"),
        ("nats://h?creds=/none", "there is no such file"),
        ("nats://h?window=-1", "window=-1 does not fit"),
        ("nats://h?tls=maybe", "yes or no"),
    ],
)
def test_an_address_that_says_nothing_good_is_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        NatsLink(url, Clock())


def test_an_address_shows_no_secret_and_may_name_several_servers() -> None:
    read = address.parse("nats://shop:s3cr3t@one,two:5222?lease=12")
    assert read.servers == ("nats://one:4222", "nats://two:5222")
    assert (read.user, read.password, read.lease) == ("shop", "s3cr3t", 12.0)
    assert "s3cr3t" not in repr(read)
