"""The section of a document with the figures of runs."""

from pathlib import Path

import msgspec

from tidings.chaos.document import BEGIN, END, write
from tidings.chaos.evidence import Evidence
from tidings.chaos.ledger import Report, judge
from tidings.chaos.plan import PLACES, Plan


def report(profile: str = "kills", events: int = 10_000, **figures: object) -> Report:
    made = judge(Plan(events=events, profile=profile, faults={}), Evidence(drained=0.5), PLACES)
    return msgspec.structs.replace(made, problems=[], faults={"kill_worker": 20}, **figures)


def rows(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("| `")]


def test_a_document_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / "reliability.md"
    write(path, [report(acked=9_990, unknown=10, first_effect_p50=0.3, first_effect_max=1.25, takeover_max=4.5)])
    text = path.read_text()
    assert text.startswith("# ")
    assert text.index(BEGIN) < text.index(rows(path)[0]) < text.index(END)
    cells = [cell.strip() for cell in rows(path)[0].split("|")[1:-1]]
    assert cells[:2] == ["`kills`, 10,000, 20", "9,990 + 10"]
    assert {"0.3, 1.25", "4.5", "0.5"} <= set(cells)
    head = next(line for line in text.splitlines() if line.startswith("| profile"))
    assert len(cells) == head.count("|") - 1


def test_a_row_of_the_same_kind_is_replaced_and_everything_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "reliability.md"
    path.write_text("# Mine\n\nbefore\n")
    write(path, [report(), report(events=1_000_000, lost=7)])
    path.write_text(path.read_text() + "\nafter\n")
    write(path, [report(lost=3), report("freezes")])
    text = path.read_text()
    assert text.startswith("# Mine\n\nbefore\n\n" + BEGIN)
    assert text.endswith(END + "\nafter\n")
    assert text.count(BEGIN) == text.count(END) == 1
    assert [row.split("|")[1].strip() for row in rows(path)] == [
        "`freezes`, 10,000, 20", "`kills`, 10,000, 20", "`kills`, 1,000,000, 20"
    ]  # fmt: skip
    assert [row.split("|")[4].strip() for row in rows(path)] == ["0", "3", "7"]


def test_a_run_that_failed_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "reliability.md"
    write(path, [msgspec.structs.replace(report(), problems=["lost: 1"])])
    assert "**FAILED**" in rows(path)[0]
    write(path, [report()])
    assert len(rows(path)) == 1
    assert "FAILED" not in path.read_text()
