"""What `tidings doctor` makes of servers that a test cannot have at hand: clusters, standbys, users without rights."""

from collections.abc import Iterable

from tidings.jetstream import address as nats_address
from tidings.jetstream import checkup as nats
from tidings.kafka import checkup as kafka
from tidings.pg import checkup as postgres
from tidings.redis import address as redis_address
from tidings.redis import checkup as redis
from tidings.survey import Finding, Wish

WISH = Wish(limit=100_000, keep=3600.0, lease=30.0, store=True)


def states(findings: Iterable[Finding]) -> dict[str, str]:
    found = list(findings)
    assert all(finding.remedy for finding in found if finding.state != "ok")
    return {finding.check: finding.state for finding in found}


BROKER = {
    "default.replication.factor": "3", "min.insync.replicas": "2", "unclean.leader.election.enable": "false",
    "auto.create.topics.enable": "false", "message.max.bytes": "1048588", "group.min.session.timeout.ms": "6000",
    "group.max.session.timeout.ms": "1800000", "offset.metadata.max.bytes": "4096",
    "group.coordinator.rebalance.protocols": "classic,consumer",
}  # fmt: skip
TOPIC = {"min.insync.replicas": "2", "retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
THREE = kafka.Copies(replicas=3, behind=0, without_leader=0)
CLUSTER = kafka.Seen(
    brokers=dict.fromkeys((1, 2, 3), BROKER), topics={"order": TOPIC}, copies={"order": THREE}, offsets=THREE,
    lease=30.0, newer=False, replication=-1,
)  # fmt: skip


def of_kafka(**changes: object) -> dict[str, str]:
    return states(kafka.examine(CLUSTER._replace(**changes), WISH))  # type: ignore[arg-type]


def test_a_kafka_cluster_that_keeps_every_promise() -> None:
    assert set(of_kafka().values()) == {"ok"}
    assert of_kafka(topics={"order": TOPIC | {"retention.bytes": "1000"}})["limits"] == "warn"
    assert of_kafka(copies={"order": THREE._replace(behind=1)})["partitions"] == "warn"
    assert of_kafka(copies={"order": THREE._replace(without_leader=1)})["partitions"] == "bad"
    assert of_kafka(offsets=THREE._replace(replicas=1))["machine lost"] == "warn"
    assert of_kafka(topics={"order": TOPIC | {"min.insync.replicas": "1"}})["power cut"] == "warn"
    assert of_kafka(newer=True)["groups"] == "ok"
    assert (
        of_kafka(newer=True, brokers={1: {**BROKER, "group.coordinator.rebalance.protocols": "classic"}})["groups"]
        == "bad"
    )


def test_a_kafka_user_who_may_not_see_settings() -> None:
    found = of_kafka(brokers={1: {}}, topics={"order": {}})
    assert (found["server"], found["power cut"]) == ("warn", "warn")
    assert "groups" not in found


def of_nats(
    url: str, *streams: nats.Stream, writes: nats.Disk | None = None, account: nats.Account | None = None
) -> dict[str, str]:
    seen = nats.Seen(
        version="2.15.1", max_payload=1 << 20, streams=streams, bucket="KV_tidings", account=account or nats.Account(),
        writes=writes, why="the monitoring does not answer",
    )  # fmt: skip
    return states(nats.examine(seen, nats_address.parse(url), WISH))


def stream(**plan: object) -> nats.Stream:
    return nats.Stream(nats.Plan("tidings_order", **{"storage": "file", "num_replicas": 3, **plan}))  # type: ignore[arg-type]


def test_a_nats_cluster() -> None:
    three = "nats://h?replicas=3"
    assert set(of_nats(three, stream()).values()) == {"ok"}, "replicas make up for a disk that nobody knows of"
    assert of_nats("nats://h", stream())["power cut"] == "warn", "topics that are made have one copy"
    assert of_nats("nats://h", stream(), writes=nats.Disk(sync_always=True))["power cut"] == "ok"
    assert of_nats(three, stream(num_replicas=1))["machine lost"] == "warn"
    assert of_nats(three, stream(storage="memory"))["server killed"] == "bad"
    assert of_nats(three, stream(max_msgs=100, discard="old"))["limits"] == "bad"
    assert of_nats(three, stream(max_msgs=100, discard="new"))["limits"] == "ok"
    assert of_nats(three, account=nats.Account(storage=95, limits=nats.Limits(100)))["storage"] == "warn"
    behind = stream()
    behind.cluster = nats.Cluster("a", [nats.Peer("b", current=True), nats.Peer("c", offline=True)])
    assert of_nats(three, behind)["machine lost"] == "warn"


def test_redis_with_replicas() -> None:
    told = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "maxmemory": "1000"}

    def found(url: str, replicas: int, **more: str) -> dict[str, str]:
        info = {"redis_version": "8.0.0", "connected_slaves": str(replicas), "used_memory": "10"} | more
        return states(redis.examine(told, info, redis_address.parse(url), WISH))

    assert set(found("redis://h?replicas=1", 1).values()) == {"ok"}
    assert found("redis://h", 1)["machine lost"] == "warn"
    assert found("redis://h?replicas=1", 0)["machine lost"] == "bad"
    assert found("redis://h?replicas=1", 1, used_memory="950")["memory"] == "warn"
    assert found("redis://h?replicas=1", 1, redis_mode="cluster")["server"] == "warn"
    assert found("redis://h?replicas=1", 1, aof_last_write_status="err")["server killed"] == "bad"


def test_postgres_with_standbys() -> None:
    told = {
        "server_version": "17.1", "wal_level": "replica", "fsync": "on", "full_page_writes": "on", "autovacuum": "on",
        "synchronous_commit": "on", "synchronous_standby_names": "two", "max_connections": "100",
        "superuser_reserved_connections": "3",
    }  # fmt: skip

    def found(facts: postgres.Facts, **more: str) -> dict[str, str]:
        return states(postgres.examine(told | more, facts, WISH))

    facts = postgres.Facts(connections=10, standbys=1, made=True, may_make=False)
    assert set(found(facts).values()) == {"ok"}
    assert found(facts, synchronous_standby_names="")["machine lost"] == "warn"
    assert found(facts._replace(standbys=0))["machine lost"] == "bad"
    assert found(facts._replace(made=False))["server"] == "bad"
    assert found(facts._replace(connections=80))["connections"] == "warn"
    assert found(facts, full_page_writes="off")["power cut"] == "bad"
