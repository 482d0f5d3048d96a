"""A run touches no other machine unasked."""

import pytest

from tidings.chaos.address import find
from tidings.chaos.place import here, hosts
from tidings.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite:tidings.db", []),
        ("sqlite:/var/lib/tidings.db", []),
        ("nats://127.0.0.1:4222", ["127.0.0.1"]),
        ("amqp://me:secret@broker:5672/vhost", ["broker"]),
        ("kafka://[::1]:9092,other:9092,third", ["::1", "other", "third"]),
        ("sqlite://folder/tidings.db", []),
        ("postgresql:///shop?host=one,two&lease=3", ["one", "two"]),
    ],
)
def test_the_hosts_of_a_url(url: str, named: list[str]) -> None:
    assert hosts(url) == named


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost"])
def test_loopback_is_here(host: str) -> None:
    assert here(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "198.51.100.7", "host.invalid"])
def test_another_machine_is_not(host: str) -> None:
    assert not here(host)


@pytest.mark.parametrize("url", ["nats://192.0.2.1:4222", "kafka://127.0.0.1:9092,192.0.2.1:9092"])
def test_another_machine_is_refused_unless_it_is_mine(url: str) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 is not this machine.* --remote-is-mine"):
        find(url)
    with pytest.raises(ConfigError, match="A chaos run knows sqlite:PATH"):
        find(url, remote_is_mine=True)


def test_a_store_on_another_machine_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 is not this machine"):
        find("nats://127.0.0.1:4222", "postgresql://192.0.2.1/shop")
