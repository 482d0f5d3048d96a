"""The page "which broker" says what the adapters claim."""

from pathlib import Path

import pytest

from bench.which_broker import CHOICES, Measured, line, table, written
from tidings.broker import Feature

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "brokers.md"


def test_the_table_is_what_the_features_of_the_adapters_make_of_its_figures() -> None:
    figures = written(PAGE)
    assert figures.keys() == {choice.name for choice in CHOICES}
    assert table(figures) in PAGE.read_text(), "run: make brokers"


def test_each_figure_was_measured() -> None:
    for name, measured in written(PAGE).items():
        rate, recovery = (float(cell.replace(",", "")) for cell in measured)
        assert rate > 0, name
        assert recovery > 0, name


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.url)
def test_what_an_adapter_does_not_claim_is_not_promised(choice: type, monkeypatch: pytest.MonkeyPatch) -> None:
    said = line(choice, Measured())
    monkeypatch.setattr(choice.adapter, "features", Feature(0))
    nothing = line(choice, Measured())
    assert "| no | no | no | no | with a store | through outbox and inbox |" in nothing
    assert said != nothing
