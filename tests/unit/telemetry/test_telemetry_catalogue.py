"""The catalogue of metrics is a contract: names, units, labels and buckets."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aqaa.telemetry import catalogue
from aqaa.telemetry.metrics import Counter, Gauge, Histogram, Metric, Metrics

ROOT = Path(__file__).parents[3]
IDS = [metric.name for metric in catalogue.ALL]


def test_the_parts_hold_every_metric_of_the_module_once():
    defined = {metric for metric in vars(catalogue).values() if isinstance(metric, Metric)}
    assert defined == set(catalogue.ALL)
    assert len(IDS) == len(set(IDS))


@pytest.mark.parametrize("metric", catalogue.ALL, ids=IDS)
def test_a_metric_is_named_as_prometheus_advises(metric):
    assert re.fullmatch(r"aqaa(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == isinstance(metric, Counter)
    assert metric.help.endswith(".")
    assert not set(metric.labels) & {"session_id", "turn_id", "caller", "tenant", "le", "job", "instance"}


@pytest.mark.parametrize(
    "metric", [metric for metric in catalogue.ALL if isinstance(metric, Histogram)], ids=lambda m: m.name
)
def test_buckets_rise(metric):
    assert metric.buckets
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_all_parts_fit_into_one_registry_under_the_names_of_the_catalogue():
    registry = CollectorRegistry()
    Metrics(registry, catalogue.ALL)
    shown = set(
        re.findall(r"^# TYPE (\S+) (?:counter|gauge|histogram)$", generate_latest(registry).decode(), re.M)
    )
    assert {name for name in shown if not name.endswith("_created")} == set(IDS)


def sources(*folders: str) -> str:
    """All Python of these folders but the catalogue's own."""
    own = {ROOT / "aqaa" / "telemetry" / "catalogue.py", Path(__file__)}
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path not in own]
    return "\n".join(path.read_text("utf-8") for path in paths)


def test_every_metric_is_set_by_the_code_and_looked_at_by_a_test():
    constants = {metric: name for name, metric in vars(catalogue).items() if isinstance(metric, Metric)}
    code, tests = sources("aqaa", "services"), sources("tests")
    unset = [metric.name for metric, name in constants.items() if f"[catalogue.{name}]" not in code]
    assert not unset
    unseen = [
        metric.name
        for metric, name in constants.items()
        if not re.search(rf"\bcatalogue\.{name}\b|\b{metric.name}(_bucket|_sum|_count)?\b", tests)
    ]
    assert not unseen


def test_a_service_has_its_own_metrics_and_no_others():
    registry = CollectorRegistry()
    metrics = Metrics(registry, catalogue.RPC, catalogue.LLM)
    metrics[catalogue.LLM_SLOTS].set(4)
    metrics[catalogue.RPC_CALLS].labels(method="/p.S/M", code="OK", reason="").inc()
    metrics[catalogue.LLM_STEP_SECONDS].observe(0.01)
    assert registry.get_sample_value("aqaa_llm_slots") == 4
    assert registry.get_sample_value("aqaa_llm_step_seconds_bucket", {"le": "0.01"}) == 1
    with pytest.raises(KeyError, match="aqaa_vocoder_streams"):
        metrics[catalogue.VOCODER_STREAMS]


def test_kinds_are_told():
    assert (Counter.kind, Gauge.kind, Histogram.kind) == ("counter", "gauge", "histogram")
