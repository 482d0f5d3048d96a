"""What every test gets: a folder of its own, an environment without our settings, repeatable hypothesis runs."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.lifetime import kept_open
from tests.servers.shared import kafka_server, nats_server, postgres_server, rabbitmq_server, valkey_server
from tidings.brokers.sqlite import SqliteBroker
from tidings.clock import Clock
from tidings.embedded.database import Database

__all__ = ["kafka_server", "nats_server", "own_folder", "postgres_server", "rabbitmq_server", "valkey_server"]

# A loaded machine is slow, not wrong: pytest-timeout alone decides what takes too long. CI repeats what it did;
# whoever asks for more EXAMPLES gets new ones.
settings.register_profile("tidings", deadline=None, derandomize="EXAMPLES" not in os.environ)
settings.load_profile("tidings")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apps started in one folder share its tidings.db and tidings.toml: no test may hear another, or the checkout."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TIDINGS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[SqliteBroker]:
    """The embedded broker, on a file without fsync."""
    async with kept_open(SqliteBroker(Database(tmp_path / "tidings.db", durable=False), Clock())) as broker:
        yield broker
