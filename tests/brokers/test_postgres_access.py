"""Who may connect to PostgreSQL and how, and what is said to who may not."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.brokers.access import CODED, SECRET
from tests.servers.shared import require
from tidings.broker import Record, Start
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect
from tidings.dev import Postgres
from tidings.errors import BrokerError

RULES = """
host     all   postgres         127.0.0.1/32   trust
hostssl  shop  shop,reader      127.0.0.1/32   scram-sha-256
hostssl  shop  client           127.0.0.1/32   cert
"""
USERS = ("shop", "client", "reader")


class Guarded:
    """A database `shop` that `shop` may enter with a password, `client` with a certificate, and `reader` to no use."""

    def __init__(self, server: Postgres, certificates: Path) -> None:
        self.server = server
        self.certificates = certificates
        self.ca = f"sslmode=verify-full&sslrootcert={certificates / 'ca.pem'}"

    def url(self, user: str, options: str) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.server.port}/shop?{options}"

    def certificate(self, name: str) -> str:
        return f"{self.ca}&sslcert={self.certificates / name}.pem&sslkey={self.certificates / name}.key"


@pytest.fixture(scope="module")
def guarded(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    require(Postgres)
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "rules.conf").write_text(RULES)
    for path in certificates.glob("*.key"):
        path.chmod(0o600)
    settings = {
        "hba_file": folder / "rules.conf",
        "ssl": "on",
        "ssl_cert_file": certificates / "server.pem",
        "ssl_key_file": certificates / "server.key",
        "ssl_ca_file": certificates / "ca.pem",
    }
    with Postgres(folder, settings=settings) as server:
        with psycopg.connect(server.url, autocommit=True) as admin:
            for user in USERS:
                admin.execute(f"CREATE USER {user} PASSWORD '{SECRET}'")
            admin.execute("CREATE DATABASE shop")
            admin.execute("GRANT CREATE ON DATABASE shop TO shop")
        yield Guarded(server, certificates)


async def enter(url: str) -> None:
    """Open, publish and read again."""
    broker = connect(load(broker=url), Clock()).broker
    try:
        await broker.open()
        await broker.declare("order", ["shop.reserve"])
        await broker.publish([Record("order", b"body", "k", "order.created", Clock().id(), 1e9)])
        view = await broker.subscribe(["order"], None, Start.EARLIEST)
        assert await view.fetch(1, 30.0)
        await view.close()
    finally:
        await broker.close()


async def refused(url: str, why: str) -> None:
    with pytest.raises(BrokerError, match=why) as told:
        await enter(url)
    for text in (str(told.value), repr(told.value), repr(told.value.__cause__)):
        assert "s3cr3t" not in text
    assert "\n" not in str(told.value)


async def test_who_signs_in_as_the_server_wants_comes_in(guarded: Guarded) -> None:
    await enter(guarded.url(f"shop:{CODED}", guarded.ca))
    with psycopg.connect(guarded.server.url.rpartition("/")[0] + "/shop", autocommit=True) as admin:
        admin.execute("GRANT USAGE ON SCHEMA tidings TO client")
        admin.execute("GRANT ALL ON ALL TABLES IN SCHEMA tidings TO client")
        admin.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA tidings TO client")
    await enter(guarded.url("client", guarded.certificate("client")))


async def test_who_does_not_is_told_why(guarded: Guarded) -> None:
    shop = f"shop:{CODED}"
    await enter(guarded.url(shop, guarded.ca))
    await refused(guarded.url("shop:s3cr3t", guarded.ca), "Check user, password and database")
    await refused(guarded.url("shop", guarded.ca), "It wants a password")
    await refused(guarded.url(shop, "sslmode=disable"), "sslmode")
    await refused(guarded.url(shop, "sslmode=verify-full"), "sslrootcert")
    mistaken = f"sslmode=verify-full&sslrootcert={guarded.certificates / 'stranger.pem'}"
    await refused(guarded.url(shop, mistaken), "sslrootcert")
    await refused(guarded.url(f"client:{CODED}", guarded.ca), "sslcert")
    await refused(guarded.url("client", guarded.certificate("stranger")), "sslcert")
    await refused(guarded.url("shop", guarded.certificate("client")), "It wants a password")
    await refused(guarded.url(f"reader:{CODED}", guarded.ca), "grant USAGE on schema tidings")
