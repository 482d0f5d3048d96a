"""The page on the contract says what is checked."""

from pathlib import Path

from tests.brokers.contract_page import BROKERS, WATERMILL, page

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "contract.md"


def test_the_page_is_that_of_the_checks() -> None:
    assert PAGE.read_text() == page(), "python -m tests.brokers.contract_page > docs/guide/contract.md"


def test_every_behaviour_of_others_has_a_check_that_runs_somewhere() -> None:
    run = {check.name for checks in BROKERS.values() for check in checks}
    assert {name for names in WATERMILL.values() for name in names} <= run
    assert len(WATERMILL) == 16
