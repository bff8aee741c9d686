"""`python -m benchmarks`: which benchmarks run, in which order, and what a failure costs."""

import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as runner


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


def test_the_named_run_in_the_order_of_their_names(commands: list[list[str]]) -> None:
    assert runner.main(["--quick", "latency", "engine_vs_hf", "codec"]) == 0
    assert commands == [
        [sys.executable, "-m", "benchmarks.latency", "--n", "1"],
        [sys.executable, "-m", "benchmarks.engine_vs_hf", "--repeats", "1"],
        [sys.executable, "-m", "benchmarks.codec", "--seconds", "2"],
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
