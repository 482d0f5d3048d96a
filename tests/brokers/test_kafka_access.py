"""Who may connect to Kafka and how, and what is said to who may not: one broker with a listener for each way."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.brokers.access import CODED, SECRET, Papers, refused, works
from tests.servers.shared import require
from tidings.brokers.kafka import KafkaLink
from tidings.clock import Clock
from tidings.dev import Kafka
from tidings.dev.server import free_port

NUMBERS = itertools.count(1)
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
PLAIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_shop="{SECRET}" user_reader="{SECRET}";'
MAPPED = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SIGNED:SASL_SSL,BARE:SASL_PLAINTEXT,MUTUAL:SSL"
OPTIONS = ("ssl.ca.location", "ssl.certificate.location", "ssl.key.location")
SCRAM_512 = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)


class Guarded(NamedTuple):
    """A broker that knows `shop`, who may do all below `own.`, and `reader`, who may read there."""

    ports: dict[str, int]
    papers: Papers

    def link(self, listener: str, options: str = "", user: str = "") -> KafkaLink:
        at = f"kafka://{user}{'@' if user else ''}127.0.0.1:{self.ports[listener]}"
        return KafkaLink(f"{at}?prefix=own.{next(NUMBERS)}.&partitions=1&message.timeout.ms=5000&{options}", Clock())

    def certificate(self, name: str) -> str:
        """The options of who signs in by a certificate."""
        return f"security.protocol=SSL&{self.papers.ca}&{self.papers.of(name)}"


def settings(certificates: Path, ports: dict[str, int]) -> dict[str, object]:
    """Those of the broker. Who comes in without TLS and without a name is trusted: the broker itself, and its admin."""
    at = {name: f"{name}://127.0.0.1:{port}" for name, port in ports.items()}
    return {
        "listeners": ",".join(at.values()),
        "advertised.listeners": ",".join(text for name, text in at.items() if name != "CONTROLLER"),
        "listener.security.protocol.map": MAPPED,
        "controller.quorum.voters": f"1@127.0.0.1:{ports['CONTROLLER']}",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
        **{f"listener.name.{name}.scram-sha-512.sasl.jaas.config": SCRAM for name in ("signed", "bare")},
        **{f"listener.name.{name}.plain.sasl.jaas.config": PLAIN for name in ("signed", "bare")},
        "listener.name.mutual.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": certificates / "server.both",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": certificates / "ca.pem",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def permit(server: Kafka) -> None:
    """Make the users, and say what they may."""
    admin = AdminClient({"bootstrap.servers": server.url.removeprefix("kafka://")})
    users = [UserScramCredentialUpsertion(name, SCRAM_512, SECRET.encode()) for name in ("shop", "reader")]
    rules = [("User:shop", AclOperation.ALL), ("User:CN=client", AclOperation.ALL), ("User:reader", AclOperation.READ)]
    bindings = [
        AclBinding(kind, "own.", ResourcePatternType.PREFIXED, who, "*", what, AclPermissionType.ALLOW)
        for who, what in rules
        for kind in (ResourceType.TOPIC, ResourceType.GROUP)
    ]
    for each in (*admin.alter_user_scram_credentials(users).values(), *admin.create_acls(bindings).values()):
        each.result(30)


@pytest.fixture(scope="module")
def guarded(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    require(Kafka)
    ports = {name: free_port() for name in ("PLAINTEXT", "CONTROLLER", "SIGNED", "BARE", "MUTUAL")}
    folder = tmp_path_factory.mktemp("guarded")
    with Kafka(folder, port=ports["PLAINTEXT"], settings=settings(certificates, ports)) as server:
        permit(server)
        yield Guarded(ports, Papers(certificates, OPTIONS))


@pytest.mark.timeout(180)  # a busy machine starts Kafka in a minute
async def test_who_signs_in_as_the_broker_wants_comes_in(guarded: Guarded) -> None:
    shop = f"shop:{CODED}"
    async with asyncio.TaskGroup() as tasks:
        for listener, options, user in (
            ("SIGNED", guarded.papers.ca, shop),
            ("SIGNED", f"{guarded.papers.ca}&sasl.mechanism=PLAIN", shop),
            ("BARE", "security.protocol=SASL_PLAINTEXT", shop),
            ("MUTUAL", guarded.certificate("client"), ""),
        ):
            tasks.create_task(works(guarded.link(listener, options, user)))


@pytest.mark.timeout(180)
async def test_who_does_not_is_told_why(guarded: Guarded) -> None:
    wrong = "shop:s3cr3t"
    async with asyncio.TaskGroup() as tasks:
        for listener, options, user, why in (
            ("SIGNED", guarded.papers.ca, wrong, "refused the user or the password"),
            ("SIGNED", f"{guarded.papers.ca}&sasl.mechanism=PLAIN", wrong, "refused the user or the password"),
            ("BARE", "security.protocol=SASL_PLAINTEXT", wrong, "refused the user or the password"),
            ("SIGNED", f"{guarded.papers.ca}&sasl.mechanism=SCRAM-SHA-256", wrong, "and `sasl.mechanism`"),
            ("SIGNED", "", wrong, "TLS failed; check"),
            ("SIGNED", guarded.certificate("client"), "", "check the servers in the URL and `security.protocol`"),
            ("PLAINTEXT", guarded.papers.ca, wrong, "TLS failed; check"),
            ("MUTUAL", f"security.protocol=SSL&{guarded.papers.ca}", "", "check .* the certificates"),
            ("MUTUAL", guarded.certificate("stranger"), "", "check .* the certificates"),
            ("SIGNED", guarded.papers.ca, f"reader:{CODED}", "an ACL has to grant"),
        ):
            tasks.create_task(refused(guarded.link(listener, options, user), why))
