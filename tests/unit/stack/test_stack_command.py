"""`aqaa up` turns its options into a plan, and refuses what does not fit together."""

import json
import sys

import pytest

from aqaa import cli
from aqaa.errors import SettingsError
from aqaa.stack import up
from aqaa.stack.plan import Plan


@pytest.fixture
def planned(bundle_dir, monkeypatch):
    """Runs the command as far as the plan: exit status, the plan, whether logs are JSON."""
    monkeypatch.setenv("AQAA_BUNDLE", str(bundle_dir))
    for variable in ("AQAA_ORCHESTRATOR_PORT", "AQAA_ORCHESTRATOR_REDIS_URL", "AQAA_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    plans: list[tuple[Plan, bool]] = []

    def run(plan, *, json_logs):
        plans.append((plan, json_logs))
        return 7

    monkeypatch.setattr(up, "run", run)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["aqaa", "up", *words])
        with pytest.raises(SystemExit) as found:
            cli.main()
        return found.value.code, *(plans[-1] if plans else (None, None))

    return call


def test_the_defaults_need_nothing_but_a_bundle(planned, bundle_dir):
    status, plan, json_logs = planned()
    assert (status, json_logs) == (7, False)
    assert (plan.bundle, plan.port, plan.redis_url, plan.data) == (bundle_dir.resolve(), 50050, None, None)
    assert plan.environ["AQAA_BUNDLE"] == str(bundle_dir)


def test_options_and_environment_reach_the_plan(planned, monkeypatch, tmp_path):
    monkeypatch.setenv("AQAA_ORCHESTRATOR_PORT", "50099")
    flags = ("--data", str(tmp_path), "--ready-seconds", "9", "--drain-seconds", "3", "--json-logs")
    _, plan, json_logs = planned(*flags)
    assert (plan.port, plan.data, plan.ready_seconds, plan.drain_seconds) == (50099, tmp_path, 9.0, 3.0)
    assert json_logs


def test_data_of_a_turn_log_that_is_not_ours_is_refused(planned, tmp_path, capsys):
    status, plan, _ = planned("--data", str(tmp_path), "--redis-url", "redis://127.0.0.1")
    assert (status, plan) == (2, None)
    assert "--redis-url names another one" in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_refused(planned, tmp_path, capsys):
    status, plan, _ = planned("--bundle", str(tmp_path))
    assert (status, plan) == (3, None)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_settings_file_is_read_before_anything_starts(tmp_path):
    environ = {"AQAA_CONFIG": str(tmp_path / "missing.toml")}
    with pytest.raises(SettingsError, match=r"missing\.toml"):
        up.run(Plan(bundle=tmp_path, environ=environ), json_logs=True)


def test_failures_are_json_with_json_logs(capsys, tmp_path, monkeypatch):
    """A stage of this plan ends at once: everything on standard error is JSON all the same."""
    monkeypatch.setattr(up, "where_services_are", lambda environ: environ)
    programs = {"llm": (sys.executable, "-c", "print('not JSON'); raise SystemExit(4)")}
    plan = Plan(tmp_path, {}, programs=programs, stages=("llm",), port=0)
    assert up.run(plan, json_logs=True) == 1
    *_, output, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert output == {"service": "llm", "event": "output", "text": "not JSON"}
    assert failed["text"] == "llm ended with status 4 while it started"
