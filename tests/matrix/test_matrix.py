"""Every row of the fault matrix holds."""

from pathlib import Path

import pytest

from tests.matrix import Row, rows

LONG = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.number, marks=[] if row.quick else LONG) for row in rows()])
async def test_the_row_holds(row: Row, tmp_path: Path) -> None:
    assert await row.run(tmp_path)
