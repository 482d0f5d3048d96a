"""The benchmarks run and say what they promise to say; how fast, no test can judge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ("--rounds", "1", "--scale", "0.02")
TINY = ("--rounds", "1", "--scale", "0.002")


def bench(*arguments: str, patience: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidings", "bench", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False, env=environment)


@pytest.mark.parametrize(
    ("measure", "rows"),
    [
        ("publish_100", ["publish_100"]),
        ("publish_many", ["publish_many"]),
        ("consume_async", ["consume_async"]),
        ("consume_sync", ["consume_sync"]),
        ("sql_and_publish", ["sql_and_publish"]),
        ("end_to_end", ["end_to_end", "end_to_end_p99"]),
        ("idle_cpu", ["idle_cpu"]),
        ("growth", ["growth", "growth_tail", "growth_bytes"]),
        ("wal", ["wal"]),
    ],
)
def test_a_measure_is_told_beside_the_raw_loop(measure: str, rows: list[str]) -> None:
    done = bench("embedded", "--json", "--measure", measure, *(TINY if measure == "growth" else SMALL))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["measure"] for row in told] == rows
    for row in told:
        assert list(row) == ["measure", "ours", "raw", "ratio", "unit"]
        assert row["ours"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["raw"])


@pytest.mark.timeout(150)
@pytest.mark.parametrize("kind", ["nats", "valkey"])
@pytest.mark.parametrize(
    ("measure", "rows"),
    [
        ("consume", ["consume", "consume_cpu", "publish", "publish_cpu"]),
        ("latency", ["latency", "latency_p99"]),
    ],
)
def test_a_server_is_measured_beside_its_plain_client(kind: str, measure: str, rows: list[str], tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    only = ("--only", f"{kind}.{measure}")
    done = bench("brokers", "--json", *only, *TINY, "--write", str(document), patience=140)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["measure"] for row in told] == [f"{kind}.{row}" for row in rows]
    for row in told:
        assert list(row) == ["measure", "ours", "raw", "ratio", "unit"]
        assert row["ours"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["raw"])
        assert f"| `{row['measure']}` |" in document.read_text()


@pytest.mark.timeout(150)
def test_a_long_measure_may_have_no_twin() -> None:
    done = bench("brokers", "--json", "--only", "nats.backlog,nats.reconnect", *TINY, patience=140)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    long = ["backlog", "backlog_speed", "reconnect", "reconnect_attempts"]
    assert [row["measure"] for row in rows] == [f"nats.{measure}" for measure in long]
    assert [row["raw"] is None for row in rows] == [False, False, True, True]


def test_the_long_measures_of_a_server_are_for_a_full_run() -> None:
    from bench.brokers.servers import chosen

    assert chosen(["nats"], full=False) == ["nats.consume", "nats.latency", "nats.faststream"]
    assert chosen(["nats"], full=True)[3:] == ["nats.backlog", "nats.reconnect"]
    assert chosen(["nats.latency"], full=False) == ["nats.latency"]


def test_an_unknown_server_is_refused_with_the_known_ones() -> None:
    done = bench("brokers", "--only", "nats,pulsar")
    assert done.returncode == 2
    assert "there is no 'pulsar'; there are: kafka, nats, rabbitmq, valkey, postgres, kafka.consume," in done.stderr


def test_the_simulator_is_measured_by_its_loop_and_by_its_runs() -> None:
    done = bench("simulator", "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["measure"] for row in rows] == ["callbacks", "sleeps", "queues", "shop_1_1", "shop_3_2"]
    assert {row["unit"] for row in rows} == {"steps/s", "runs/s"}
    assert all(row["figure"] > 0 for row in rows)


def test_all_measures_of_the_default_run_are_known_and_the_long_ones_are_left_out() -> None:
    from bench.embedded import chosen

    default = ["publish_1", "publish_100", "publish_1000", "publish_many", "consume_async", "consume_sync",
               "sql_and_publish", "end_to_end", "idle_cpu"]  # fmt: skip
    assert chosen([], full=False) == default
    assert chosen([], full=True) == [*default, "growth", "wal"]


def test_an_unknown_measure_is_refused_with_the_known_ones() -> None:
    done = bench("embedded", "--measure", "nothing")
    assert done.returncode == 2
    assert "there is no measure 'nothing'; there are: publish_1," in done.stderr


def test_without_the_source_tree_it_says_where_the_measures_are(tmp_path: Path) -> None:
    import tidings

    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "tidings").symlink_to(Path(tidings.__file__).parent)
    done = bench("embedded", PYTHONPATH=str(installed))
    assert done.returncode != 0
    assert "they are in the source tree" in done.stderr


def test_the_document_keeps_its_other_sections(tmp_path: Path) -> None:
    from bench.report import replace_section

    document = tmp_path / "performance.md"
    for name, body in [("embedded", "one"), ("peers", "two"), ("embedded", "three")]:
        replace_section(document, name, body)
    _, _, sections = document.read_text().partition("<!-- embedded -->")
    assert sections == "\nthree\n<!-- /embedded -->\n\n<!-- peers -->\ntwo\n<!-- /peers -->\n"


def test_a_run_is_written_into_the_document(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    done = bench("embedded", "--measure", "publish_many", *SMALL, "--write", str(document))
    assert done.returncode == 0, done.stderr
    assert "| `publish_many` |" in document.read_text()
    assert "SQLite" in document.read_text()


def test_peers_are_written_beside_us(tmp_path: Path) -> None:
    from bench.peers.compare import Row
    from bench.report import write_peers

    document = tmp_path / "performance.md"
    write_peers(document, [Row("huey on SQLite", "consume", 1000.0, 400.0, 100_000.0, 8.0, 100.0)], busy=0.1)
    assert "| consume | huey on SQLite | 1,000 | 400 | 100,000 | 8 | 100.0 |" in document.read_text()
