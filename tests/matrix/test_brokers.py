"""The rows for servers: what is planned belongs to a row, and what a row is about is planned."""

import pytest

from tests.matrix.brokers import ROWS, SETTINGS, plans
from tidings.chaos.ground import SERVERS


@pytest.mark.parametrize("server", SERVERS)
def test_every_fault_has_its_row_and_every_row_its_fault(server: str) -> None:
    runs = plans(server, 1000, 1)
    for name, run in runs.items():
        told = {kind for row in ROWS if row.run == name for kind in row.kinds}
        assert set(run.faults) <= told
    for row in ROWS:
        assert not row.kinds or set(row.kinds) & set(runs[row.run].faults)
    assert server in SETTINGS
