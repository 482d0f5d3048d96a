"""`tidings topics`, `groups`, `dead` and `doctor` on live servers, for `doctor` also on some that are set up badly."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.cli.shop import HANDLER, Placed, publish, work
from tests.cli.terminal import Result, failed, tidings
from tests.servers.shared import require
from tidings.amqp import checkup as rabbitmq
from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect
from tidings.dev import Kafka, Nats, Postgres, RabbitMQ, Valkey
from tidings.dev.server import free_port
from tidings.survey import Wish

pytestmark = pytest.mark.timeout(300)  # a busy machine starts Kafka and RabbitMQ in a minute each

PROMISES = {"server killed", "power cut", "machine lost", "order by key", "id kept once", "replay", "body limit"}
RANK = ["ok", "warn", "bad"]


def report(*args: str) -> dict[str, Any]:
    """The findings by check; of several, the worst. Every server has one for each promise."""
    result = tidings("doctor", "--json", *args)
    assert result.out, result.err
    findings = sorted(result.json["checks"], key=lambda finding: RANK.index(finding["state"]))
    assert result.code == (1 if findings[-1]["state"] == "bad" else 0)
    assert result.json["ok"] == (result.code == 0)
    assert all(finding["remedy"] for finding in findings if finding["state"] != "ok")
    found = {finding["check"]: finding for finding in findings}
    assert found.keys() > PROMISES
    return found


def states(found: dict[str, Any], *checks: str) -> list[str]:
    return [found[check]["state"] for check in checks]


def declare(url: str, topic: str) -> None:
    async def run() -> None:
        connection = connect(load(broker=url), Clock())
        await connection.open()
        try:
            await connection.broker.declare(topic, ["shop.ship"])
        finally:
            await connection.close()

    asyncio.run(run())


# -- topics, groups and dead letters

SERVERS = ["nats", "valkey", "postgres", "rabbitmq", "kafka"]
NO_CENSUS = ["rabbitmq"]


def bad(*totals: int, key: str = "") -> list[Placed]:
    return [Placed(order_id=key or f"o{n}", total=n, bad="value") for n in totals]


@pytest.mark.parametrize("broker", SERVERS, indirect=True)
def test_dead_letters_are_listed_mended_replayed_and_dropped(broker: str) -> None:
    assert work(*bad(1, 2), Placed(order_id="x", total=9), *bad(3, 4)) == [Placed(order_id="x", total=9)]
    handler = [HANDLER] if broker in NO_CENSUS else []
    (cause,) = tidings("dead", "list", *handler, "--json").json
    assert (cause["handler"], cause["error"], cause["count"]) == (HANDLER, "ValueError", 4)
    id = cause["example"]
    total = tidings("dead", "show", id, "--handler", HANDLER, "--json").json["data"]["total"]
    assert tidings("dead", "edit", id, "--set", "bad=", "--handler", HANDLER).code == 0
    assert tidings("dead", "replay", HANDLER, "--id", id, "--json").json == {"replayed": 1, "left": 0}
    assert work() == [Placed(order_id=f"o{total}", total=total)]
    assert tidings("dead", "drop", HANDLER, "--limit", "2", "--yes", "--json").json == {"dropped": 2, "left": 0}
    assert tidings("dead", "replay", HANDLER, "--rate", "0", "--json").json == {"replayed": 1, "left": 0}
    assert tidings("dead", "list", HANDLER, "--json").json == []
    assert failed(tidings("dead", "list", "shop.nobody"), 2, "no dead letters of a handler 'shop.nobody'")


@pytest.mark.parametrize("broker", [kind for kind in SERVERS if kind not in NO_CENSUS], indirect=True)
def test_topics_and_groups_of_a_server(broker: str) -> None:
    assert tidings("topics", "--json").json == tidings("groups", "--json").json == []
    work(*bad(1), Placed(order_id="a", total=2))
    publish(*(Placed(order_id=f"b{n}", total=n) for n in range(7)))
    (order,) = tidings("topics", "--json").json
    assert (order["topic"], order["events"], order["groups"]) == ("order", 9, [HANDLER])
    assert order["last"] is not None
    assert len(tidings("topics", "--json", "--all").json) == 3
    (group,) = tidings("groups", "--json", "--interval", "0.1").json
    assert (group["group"], group["topics"]) == (HANDLER, ["order", f"replay.{HANDLER}"])
    assert (group["waiting"], group["rate"], group["arriving"], group["drain"]) == (7, 0.0, 0.0, None)
    assert group["members"] == (None if broker == "valkey" else 0)
    assert group["dead"] == 1
    assert tidings("groups", HANDLER).out.splitlines()[1].split()[:3] == [HANDLER, "order", "7"]


@pytest.mark.parametrize("broker", NO_CENSUS, indirect=True)
def test_a_server_that_cannot_list_says_who_can(broker: str) -> None:
    for command in (["topics"], ["groups"], ["dead", "list"]):
        assert failed(tidings(*command), 1, "--monitor", "rabbitmqctl list_queues")


@pytest.mark.parametrize("broker", ["nats"], indirect=True)
def test_with_a_store_what_is_replayed_commits_with_the_letter(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDINGS_STORE", "sqlite:shop.db")
    work(*bad(1, 2, 3, key="a"))
    assert tidings("dead", "replay", "--store", "sqlite:shop.db", "--json").json == {"replayed": 3, "left": 0}
    work()
    (cause,) = tidings("dead", "list", "--json").json
    assert cause["count"] == 3, "they failed again, once each"


HOLD = """
import asyncio
import os

from tidings.clock import Clock
from tidings.config import load
from tidings.connect import connect


async def hold():
    broker, _ = connect(load(), Clock())
    await broker.open()
    letters = await broker.subscribe(["dead.shop.ship"], "operator.shop.ship")
    held = []
    while len(held) < 6:
        held += await letters.fetch(100, 1.0)
    os.write(1, b"held")
    await asyncio.sleep(60)


asyncio.run(hold())
"""


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_letters_of_an_operator_who_was_killed_are_all_seen_and_replayed(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDINGS_LEASE", "1.5")
    work(*bad(1, 2, 3), *bad(4, 5, 6, key="a"))
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) as operator:
        assert operator.stdout is not None
        assert operator.stdout.read(4) == b"held"
        operator.kill()
    assert [cause["count"] for cause in tidings("dead", "list", "--json").json] == [6]
    assert tidings("dead", "replay", "--rate", "0", "--json").json == {"replayed": 6, "left": 0}


# -- doctor, on Redis and Valkey


def test_a_valkey_that_keeps_what_it_acknowledges(valkey_server: Valkey) -> None:
    found = report(valkey_server.url)
    assert states(found, "server", "server killed", "power cut", "memory", "body limit") == ["ok"] * 5
    assert found["server"]["detail"].startswith("Valkey ")
    assert (found["machine lost"]["state"], found["machine lost"]["remedy"]) == (
        "warn",
        "add a replica, and ?replicas=1",
    )
    assert report("--broker", f"{valkey_server.url}?replicas=1")["machine lost"]["state"] == "bad"


def test_a_valkey_that_keeps_nothing_and_one_that_keeps_half_of_it() -> None:
    require(Valkey)
    with Valkey(settings={"appendonly": "no", "maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        found = report(server.url)
        assert states(found, "server killed", "power cut", "memory") == ["bad"] * 3
        assert "set `appendonly yes`" in found["server killed"]["remedy"]
        assert "allkeys-lru" in found["memory"]["detail"]
    with Valkey(settings={"appendfsync": "everysec"}) as server:
        found = report(server.url)
        assert states(found, "server killed", "power cut") == ["ok", "warn"]
        assert found["power cut"]["remedy"] == "set `appendfsync always`"


def test_a_user_of_valkey_who_may_not_ask_is_told_how(valkey_server: Valkey) -> None:
    with socket.create_connection(("127.0.0.1", valkey_server.port)) as peer:
        peer.sendall(b"ACL SETUSER blind on >pass ~* +@read +@scripting +hello +select -info -config\r\n")
        assert peer.recv(100) == b"+OK\r\n"
    found = report(valkey_server.url.replace("redis://", "redis://blind:pass@"))
    assert states(found, "server", "server killed", "power cut", "memory") == ["warn"] * 4
    assert "+config|get" in found["server killed"]["remedy"]


# -- doctor, on NATS


def test_a_nats_server_whose_monitoring_says_how_it_writes() -> None:
    require(Nats)
    port = free_port()
    with Nats(settings={"http": f"127.0.0.1:{port}"}) as server:
        found = report(server.url, "--monitor", f"http://127.0.0.1:{port}")
        assert found["power cut"]["state"] == "ok"
        assert states(found, "server", "server killed", "replay", "limits", "storage") == ["ok"] * 5
        assert (found["body limit"]["state"], found["body limit"]["detail"][:26]) == (
            "warn",
            "the server takes 1016 KiB,",
        )
    with Nats(settings={"http": f"127.0.0.1:{port}", "jetstream": {"sync_interval": "2m"}}) as server:
        found = report(server.url, "--monitor", f"http://127.0.0.1:{port}")
        assert (found["power cut"]["state"], found["power cut"]["detail"][:13]) == ("warn", "up to 120 s o")
        assert "sync_interval: always" in found["power cut"]["remedy"]
        assert report(f"{server.url}?replicas=3", "--monitor", f"http://127.0.0.1:{port}")["power cut"]["state"] == "ok"


def test_without_the_monitoring_of_this_nats_server_its_disk_is_unknown(nats_server: Nats) -> None:
    assert "unknown" in report(nats_server.url, "--monitor", "http://127.0.0.1:1")["power cut"]["detail"]
    port = free_port()
    with Nats(settings={"http": f"127.0.0.1:{port}"}):
        found = report(nats_server.url, "--monitor", f"http://127.0.0.1:{port}")
    assert (found["power cut"]["state"], "another server" in found["power cut"]["detail"]) == ("warn", True)
    assert failed(tidings("doctor", nats_server.url, "--monitor", "nowhere"), 2, "http://HOST:PORT")


def test_a_stream_of_nats_that_is_not_kept_for_long_enough(nats_server: Nats) -> None:
    url = f"{nats_server.url}?prefix=brief"
    Path("tidings.toml").write_text("keep = 60.0")
    declare(url, "order")
    Path("tidings.toml").write_text("keep = 86400.0\nstore = 'sqlite:shop.db'")
    found = report(url)
    assert (found["replay"]["state"], found["replay"]["detail"][:18]) == ("warn", "brief_order keeps ")
    assert "inbox" in found["id kept once"]["detail"]


# -- doctor, on PostgreSQL


def test_a_postgres_that_is_durable(postgres_server: Postgres) -> None:
    found = report(postgres_server.url)
    assert states(found, "server killed", "power cut", "id kept once", "connections", "autovacuum") == ["ok"] * 5
    assert states(found, "machine lost") == ["warn"]


def test_a_postgres_that_does_not_write_to_its_disk() -> None:
    require(Postgres)
    weak = {"fsync": "off", "autovacuum": "off", "max_connections": "6", "statement_timeout": "5s",
            "synchronous_commit": "off", "synchronous_standby_names": "other"}  # fmt: skip
    with Postgres(settings=weak) as server:
        found = report(server.url)
        assert states(found, "power cut", "machine lost", "connections", "autovacuum", "time limits") == [
            "bad", "bad", "bad", "bad", "warn",
        ]  # fmt: skip
        assert found["power cut"]["remedy"] == "set `fsync = on`"
        assert "statement_timeout 5 s" in found["time limits"]["detail"]


# -- doctor, on Kafka


def test_a_kafka_cluster_of_one_and_topics_that_forget(kafka_server: Kafka) -> None:
    url = f"{kafka_server.url}?prefix=weak-"
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{kafka_server.port}"})
    config = {"cleanup.policy": "compact", "unclean.leader.election.enable": "true", "retention.ms": "60000"}
    admin.create_topics([NewTopic("weak-order", 2, 1, config=config)])["weak-order"].result()
    found = report(f"{url}&lease=0.1")
    assert states(found, "limits", "elections", "groups") == ["bad"] * 3
    assert states(found, "power cut", "machine lost", "id kept once", "new topics") == ["warn"] * 4
    assert "weak-order" in found["machine lost"]["detail"]
    Path("tidings.toml").write_text("keep = 3600.0\nbody_limit = 1000000\nstore = 'sqlite:shop.db'")
    found = report(f"{url}&lease=5")
    assert states(found, "server", "server killed", "partitions", "groups", "id kept once", "body limit") == ["ok"] * 6
    assert states(found, "replay") == ["warn"]


def test_a_kafka_cluster_whose_new_topics_have_copies(kafka_server: Kafka) -> None:
    found = report(f"{kafka_server.url}?prefix=none-&replication=3")
    assert "new topics" in found["power cut"]["detail"], "min.insync.replicas is still 1"


# -- doctor, on RabbitMQ


def test_a_rabbitmq_server(rabbitmq_server: RabbitMQ) -> None:
    found = report(rabbitmq_server.url)
    assert states(found, "server", "server killed", "power cut", "alarms", "body limit") == ["ok"] * 5
    assert states(found, "replay", "id kept once", "machine lost", "queues") == ["warn"] * 4
    assert "--monitor" in found["queues"]["remedy"]


class Managed(RabbitMQ):
    """One whose management plugin is on."""

    def _prepare(self) -> None:
        super()._prepare()
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")


def test_a_rabbitmq_server_that_is_short_of_memory_and_whose_management_tells_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require(RabbitMQ)
    port = free_port()
    page = {"management.tcp.port": port, "management.tcp.ip": "127.0.0.1"}
    with Managed(settings={"vm_memory_high_watermark.absolute": "1MB"} | page) as server:
        declare(server.url, "order")
        assert "memory" in report(server.url)["alarms"]["detail"]
        monkeypatch.setenv("TIDINGS_BROKER", server.url)
        monitor = ["--monitor", f"http://127.0.0.1:{port}"]
        found = report(*monitor)
        assert states(found, "alarms", "machine lost", "queues") == ["bad", "warn", "ok"]
        assert "tidings.order:shop.ship:0" in found["machine lost"]["detail"]
        (order,) = tidings("topics", "--json", *monitor).json
        assert (order["topic"], order["events"], order["groups"]) == ("order", None, [HANDLER])
        wrong = server.url.replace("guest:guest", "nobody:wr0ng")
        assert failed(tidings("topics", "--broker", wrong, *monitor), 1, "refuses the user")


def managed(*queues: rabbitmq.Queue, nodes: int = 3, **alarm: bool) -> dict[str, str]:
    """The worst of what is found where the management is on, by check."""
    running = [rabbitmq.Node(f"rabbit@{n}", running=True, **alarm) for n in range(nodes)]
    seen = rabbitmq.Seen(
        version=(4, 1, 0), limit=16 << 20, blocked=None, managed=rabbitmq.Managed(running, list(queues))
    )
    found = sorted(rabbitmq.examine(seen, Wish(1 << 20, None, 30.0, True)), key=lambda each: RANK.index(each.state))
    return {finding.check: finding.state for finding in found}


def test_what_the_management_of_rabbitmq_knows() -> None:
    three = ["rabbit@0", "rabbit@1", "rabbit@2"]
    sound = rabbitmq.Queue("tidings.order:shop.ship:0", "quorum", three, three)
    assert set(managed(sound).values()) == {"ok", "warn"}
    assert managed(sound)["machine lost"] == managed(sound)["queues"] == managed(sound)["alarms"] == "ok"
    assert managed(sound, nodes=1)["machine lost"] == "warn"
    assert managed(sound, disk_free_alarm=True)["alarms"] == "bad"
    assert managed(rabbitmq.Queue(sound.name, "quorum", three, three[:2]))["machine lost"] == "warn"
    assert managed(rabbitmq.Queue(sound.name, "classic"))["queues"] == "bad"
    assert managed(rabbitmq.Queue(sound.name, "quorum", three, three, {"message-ttl": 5}))["queues"] == "bad"
    assert managed(rabbitmq.Queue(sound.name, "quorum", three, three, {"queue-version": 2}))["queues"] == "ok"


# -- doctor, where there is no server


@pytest.mark.parametrize("scheme", ["nats", "redis", "amqp", "postgresql", "kafka"])
def test_a_server_that_is_not_there(scheme: str) -> None:
    result = tidings("doctor", f"{scheme}://me:s3cret@127.0.0.1:1", "--json")
    assert failed(result, 2, "127.0.0.1:1")
    assert "s3cret" not in result.err + result.out


def test_a_wrong_password_is_said_and_not_shown(rabbitmq_server: RabbitMQ) -> None:
    result = tidings("doctor", rabbitmq_server.url.replace("guest:guest", "guest:wr0ng"))
    assert failed(result, 2, "refuses the user", "password")
    assert "wr0ng" not in result.err


def test_a_password_of_the_settings_is_not_shown(valkey_server: Valkey) -> None:
    Path("tidings.toml").write_text("broker = 'redis://me:s3cret@127.0.0.1:1'")
    result: Result = tidings("doctor", valkey_server.url)
    assert (result.code, "s3cret" in result.out, "settings" in result.out) == (0, False, True)


def test_flags_that_this_server_has_no_use_for(valkey_server: Valkey) -> None:
    assert failed(tidings("doctor", valkey_server.url, "--full"), 2, "--full")
    assert failed(tidings("doctor", valkey_server.url, "--monitor", "http://127.0.0.1:1"), 2, "leave --monitor out")
