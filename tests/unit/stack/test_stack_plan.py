"""What is started how, without starting anything; and what is shown of it."""

import io
import json
from pathlib import Path

import pytest

from aqaa.errors import SettingsError
from aqaa.stack import up
from aqaa.stack.health import Listening, listening_of
from aqaa.stack.plan import QUIET, STAGES, Plan, given_in, orchestrator_command, stage_command
from aqaa.stack.screen import Ready, Screen, line_for_people


def plan(**changes) -> Plan:
    return Plan(**{"bundle": Path("/models/nano"), "environ": {"HOME": "/home/me"}, **changes})


def flags(command):
    words = command.argv[command.argv.index("--host") :]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_a_stage_is_told_its_bundle_and_that_it_is_on_this_machine_alone():
    command = stage_command(plan(), "vocoder")
    assert command.argv[1:4] == ("-P", "-m", "services.vocoder")
    assert flags(command) == {
        "--host": "127.0.0.1",
        "--metrics-host": "127.0.0.1",
        "--drain-seconds": "10",
        "--bundle": "/models/nano",
    }
    assert command.environ == {
        **QUIET,
        "PYTHONUNBUFFERED": "1",
        "AQAA_VOCODER_PROFILE": "development",
        "HOME": "/home/me",
    }


def test_what_the_user_says_is_not_overruled():
    environ = {"AQAA_LLM_THREADS": "7", "OMP_NUM_THREADS": "5", "AQAA_LLM_SLOTS": "2"}
    command = stage_command(plan(environ=environ, given={"llm": {"profile"}}), "llm")
    assert command.environ.items() >= environ.items()
    assert "AQAA_LLM_PROFILE" not in command.environ, "the settings file has it"


def test_the_orchestrator_is_told_where_the_others_are_and_no_secret_on_its_command_line():
    addresses = {stage: f"127.0.0.1:{port}" for port, stage in enumerate(STAGES, 50051)}
    url = "redis://:secret@127.0.0.1:6379"
    command = orchestrator_command(plan(port=50050), addresses, url)
    assert flags(command)["--port"] == "50050"
    assert flags(command)["--llm"] == "127.0.0.1:50052"
    assert command.environ["AQAA_ORCHESTRATOR_REDIS_URL"] == url
    assert not any("secret" in word for word in command.argv)
    assert command.environ.items() >= QUIET.items()


def test_the_settings_file_says_what_it_gives(tmp_path):
    file = tmp_path / "aqaa.toml"
    file.write_text('x = 1\n[llm]\nthreads = 2\nprofile = "production"\n')
    assert given_in(file) == {"llm": {"threads", "profile"}}
    file.write_text("[llm")
    with pytest.raises(SettingsError, match="expected a TOML file"):
        given_in(file)


def test_services_are_found_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(up, "CHECKOUT", tmp_path)
    monkeypatch.setattr(up, "SERVICES", ("toy",))
    with pytest.raises(SettingsError, match=r"no services\.toy"):
        up.where_services_are({})
    (tmp_path / "services" / "toy").mkdir(parents=True)
    (tmp_path / "services" / "toy" / "__main__.py").touch()
    assert up.where_services_are({})["PYTHONPATH"] == str(tmp_path)
    assert up.where_services_are({"PYTHONPATH": "/mine"})["PYTHONPATH"] == f"{tmp_path}:/mine"


def test_where_a_service_listens():
    line = {"event": "listening", "address": "127.0.0.1:5", "metrics_address": "127.0.0.1:6", "level": "info"}
    assert listening_of(json.dumps(line)) == Listening("127.0.0.1:5", "127.0.0.1:6")
    for other in ('{"event": "listening"}', '"listening"', '{"listening"', "listening", "{}", "null"):
        assert listening_of(other) is None


LINE = (
    '{"service": "llm", "event": "it is warm", "level": "info", "time": "2026-01-02T03:04:05Z", "slots": 8}'
)


def shown(json_logs, *lines):
    err = io.StringIO()
    screen = Screen(out=io.StringIO(), err=err, json_logs=json_logs)
    for part, line in lines:
        screen.line(part, line)
    return err.getvalue().splitlines()


def test_lines_for_people_have_the_part_before_them():
    ready, broken = shown(False, ("llm", LINE), ("vocoder", "Segmentation [bold]fault"))
    assert ready == "llm          | 03:04:05 it is warm slots=8"
    assert broken == "vocoder      | Segmentation [bold]fault"


def test_long_lines_are_not_folded():
    assert len(shown(False, ("llm", "x" * 5000))) == 1


def test_a_level_and_a_traceback_are_seen():
    line = {"event": "it broke", "level": "error", "traceback": "File x\nKeyError\n"}
    assert line_for_people(json.dumps(line)).plain == "error: it broke\nFile x\nKeyError"


def test_json_logs_are_untouched_and_everything_else_becomes_json():
    untouched, wrapped = shown(True, ("llm", LINE), ("llm", "Killed"))
    assert untouched == LINE
    assert json.loads(wrapped) == {"service": "llm", "event": "output", "text": "Killed"}


def test_of_valkey_only_warnings_are_shown():
    lines = ["7:M 21 Nov 2026 15:00:00.000 * Ready to accept connections tcp",
             "7:M 21 Nov 2026 15:00:00.000 # WARNING Memory overcommit must be enabled! Without it",
        "7:M 21 Nov 2026 15:00:00.000 # MISCONF Errors writing to the AOF file",
             "*** FATAL CONFIG FILE ERROR ***"]  # fmt: skip
    assert len(shown(False, *(("valkey", line) for line in lines))) == 2


def test_the_ready_line_names_every_address():
    ready = Ready(
        {"orchestrator": "h:1", "llm": "h:2"},
        {"orchestrator": "h:3", "llm": "h:4"},
        {"llm": 7},
        "redis://h:5",
    )
    assert (
        ready.line()
        == "ready: orchestrator h:1 | llm h:2 | metrics: orchestrator h:3 llm h:4 | turn log redis://h:5"
    )


def test_why_it_failed_stands_last():
    err = io.StringIO()
    Screen(out=io.StringIO(), err=err, json_logs=False).failed("llm ended", [LINE, "b"])
    last = ["its last lines:", "    03:04:05 it is warm slots=8", "    b"]
    assert err.getvalue().splitlines() == [*last, "error: llm ended"]
