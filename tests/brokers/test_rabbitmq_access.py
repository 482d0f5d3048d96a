"""Who may connect to RabbitMQ and how, and what is said to who may not."""

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from tests.brokers.access import CODED, SECRET, Papers, refused, works
from tests.servers.shared import require
from tidings.brokers.rabbitmq import RabbitLink
from tidings.clock import Clock
from tidings.dev import RabbitMQ
from tidings.dev.server import free_port

SALT = b"salt"
RIGHTS = r"^(own[.:].*|amq\.(default|gen-.*))$"
"""What the guide says that a user needs, for the prefix `own`."""


class Guarded(NamedTuple):
    """A server on which `shop`, and who has the client's certificate, may do what tidings needs, and `reader` reads."""

    server: RabbitMQ
    port: int
    papers: Papers

    def link(self, user: str, options: str = "", vhost: str = "shop") -> RabbitLink:
        at = f"amqps://{user}{'@' if user else ''}127.0.0.1:{self.port}/{vhost}"
        return RabbitLink(f"{at}?prefix=own&parts=1&{options}", Clock())


def definitions() -> dict[str, object]:
    """Users, the virtual hosts `shop` and `other`, and who may do what on the first."""
    coded = base64.b64encode(SALT + hashlib.sha256(SALT + SECRET.encode()).digest()).decode()
    sha = {"hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ""}
    nothing = {"configure": "^$", "write": "^$", "read": RIGHTS}
    return {
        "users": [{"name": name, "password_hash": coded} | sha for name in ("shop", "client", "reader")],
        "vhosts": [{"name": "shop"}, {"name": "other"}],
        "permissions": [
            {"vhost": "shop", "user": "reader"} | nothing,
            *({"vhost": "shop", "user": name} | dict.fromkeys(nothing, RIGHTS) for name in ("shop", "client")),
        ],
    }


@pytest.fixture(scope="module")
def guarded(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    require(RabbitMQ)
    folder, port = tmp_path_factory.mktemp("guarded"), free_port()
    (folder / "definitions.json").write_bytes(msgspec.json.encode(definitions()))
    settings = {
        "listeners.ssl.local": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": certificates / "ca.pem",
        "ssl_options.certfile": certificates / "server.pem",
        "ssl_options.keyfile": certificates / "server.key",
        "ssl_options.verify": "verify_peer",
        "ssl_options.fail_if_no_peer_cert": "false",
        "ssl_cert_login_from": "common_name",
        "auth_mechanisms.1": "PLAIN",
        "auth_mechanisms.2": "EXTERNAL",
        "load_definitions": folder / "definitions.json",
    }
    with RabbitMQ(folder, settings=settings, plugins=["rabbitmq_auth_mechanism_ssl"]) as server:
        yield Guarded(server, port, Papers(certificates))


@pytest.mark.timeout(180)  # a busy machine starts RabbitMQ in a minute
async def test_who_signs_in_as_the_server_wants_comes_in(guarded: Guarded) -> None:
    await works(guarded.link(f"shop:{CODED}", guarded.papers.ca))
    await works(guarded.link("", f"{guarded.papers.ca}&{guarded.papers.of('client')}"))
    await works(guarded.link(f"shop:{CODED}", f"{guarded.papers.ca}&{guarded.papers.of('client')}"))


@pytest.mark.timeout(180)
async def test_who_does_not_is_told_why(guarded: Guarded) -> None:
    await refused(guarded.link("shop:s3cr3t", guarded.papers.ca), "refuses the user 'shop' or the password")
    await refused(guarded.link(f"shop:{CODED}"), r"TLS does not fit .* see \?ca=, \?cert= and \?key=")
    await refused(
        guarded.link(f"shop:{CODED}", guarded.papers.ca, "other"), "'other', or the user 'shop' has no rights on it"
    )
    await refused(guarded.link(f"reader:{CODED}", guarded.papers.ca), "set_permissions")
    named = f"{guarded.papers.ca}&{guarded.papers.of('server')}"
    await refused(guarded.link("", named), "refuses the user that the certificate names")
    stranger = f"{guarded.papers.ca}&{guarded.papers.of('stranger')}"
    await refused(guarded.link("", stranger), r"see .*\?cert= and \?key=")


@pytest.mark.timeout(180)
async def test_tls_and_none_do_not_meet(guarded: Guarded) -> None:
    plain = RabbitLink(f"amqp://shop:{CODED}@127.0.0.1:{guarded.port}/shop?parts=1", Clock())
    await refused(plain, "amqps")
    sealed = RabbitLink(f"amqps://shop:{CODED}@127.0.0.1:{guarded.server.port}/shop?parts=1", Clock())
    await refused(sealed, "TLS does not fit")
