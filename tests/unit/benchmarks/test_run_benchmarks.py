"""`python -m benchmarks`: which benchmarks run, in which order, and what a failure costs."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks.edges import Edge
from benchmarks.latency import Spread


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; `joins` fails."""
    seen: list[list[str]] = []

    def note(command: list[str]) -> int:
        seen.append(command)
        return 3 if "benchmarks.joins" in command else 0

    monkeypatch.setattr(runner, "in_own_process", note)
    return seen


def test_every_module_of_the_folder_can_be_run() -> None:
    folder = Path(runner.__file__).parent
    assert set(runner.BENCHMARKS) == {path.stem for path in folder.glob("*.py") if path.stem[0] != "_"}


def test_all_run_without_names_and_one_failure_stops_no_other(
    commands: list[list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert runner.main([]) == 1
    assert [command[2] for command in commands] == [f"benchmarks.{name}" for name in runner.BENCHMARKS]
    assert capfd.readouterr().err == "error: joins ended with exit code 3, expected 0\n"


def test_the_named_run_in_the_order_of_their_names(commands: list[list[str]], tmp_path: Path) -> None:
    out = str(tmp_path / "figures")
    assert runner.main(["--quick", "--out", out, "latency", "engine_vs_hf", "codec"]) == 0
    assert commands == [
        [sys.executable, "-m", "benchmarks.latency", "--n", "1", "--out", f"{out}/latency.json"],
        [
            sys.executable,
            "-m",
            "benchmarks.engine_vs_hf",
            "--repeats",
            "1",
            "--out",
            f"{out}/engine_vs_hf.json",
        ],
        [sys.executable, "-m", "benchmarks.codec", "--seconds", "2"],
    ]


def test_the_readmes_rows_come_last_and_only_of_what_has_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def write(command: list[str]) -> int:
        figures = tmp_path / "edges.json"
        assert command[-2:] == ["--out", str(figures)]
        assert not figures.exists()  # the file of an earlier run is gone
        figures.write_text(
            json.dumps([asdict(Edge("turn log", Spread(9, 1e-3, 2e-3), Spread(9, 3e-3, 5e-3)))])
        )
        return 0

    monkeypatch.setattr(runner, "in_own_process", write)
    for load in (0.1, 1.5):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert runner.main(["--out", str(tmp_path), "edges"]) == 0
    said = capfd.readouterr().out
    assert [line for line in said.splitlines() if "README" in line] == [
        "== for the README",
        "== a trial, not for the README",
    ]
    assert said.splitlines()[-3:] == [
        "| the services, same machine | goal | *measured here*, p50, p95 |",
        "| --- | --- | --- |",
        "| added by an edge: turn log |  | 2.00 ms (3.00 / 1.00, 3.0×), 3.00 ms (5.00 / 2.00, 2.5×) |",
    ]


def test_an_unknown_name_runs_nothing(commands: list[list[str]], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runner.main(["codec", "speed"])
    assert ended.value.code == 2
    assert "no benchmark 'speed', expected one of codec, joins" in capfd.readouterr().err
    assert not commands


def test_the_help_lists_them(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.main(["--help"])
    out = capfd.readouterr().out
    assert all(f"\n  {name} " in out for name in runner.BENCHMARKS)


def test_a_process_gives_its_exit_code() -> None:
    assert runner.in_own_process([sys.executable, "-c", "raise SystemExit(7)"]) == 7
