"""The row of the fault matrix on a backlog, with a small one; the whole is `python -m tests.matrix --row 17`."""

from pathlib import Path

from tests.matrix import row_17_backlog as row


async def test_a_backlog_is_drained_in_flat_memory_and_its_lag_is_told(tmp_path: Path) -> None:
    figures = await row.measured(tmp_path, 20_000)
    row.judge(figures, timed=False)
    assert figures["filled, events/s"] > 0
    assert 0 < figures["hear: WAL, MB"] < 200
