"""Each service's page names every setting and metric of its own, and no other."""

import re
from pathlib import Path

import pytest

from aqaa.config import ServiceSettings
from aqaa.telemetry import catalogue
from services.tokenizer.config import TokenizerSettings
from services.vocoder.config import VocoderSettings

ROOT = Path(__file__).resolve().parents[3]
SERVICES = [(TokenizerSettings, catalogue.TOKENIZER), (VocoderSettings, catalogue.VOCODER)]


@pytest.mark.parametrize(("settings", "metrics"), SERVICES, ids=["tokenizer", "vocoder"])
def test_a_page_lists_what_the_service_has(settings, metrics):
    page = (ROOT / "services" / settings.service / "README.md").read_text(encoding="utf-8")
    tables = {part.partition("\n")[0]: part for part in page.split("\n## ")}
    own = [name for name in settings.model_fields if name not in ServiceSettings.model_fields]
    assert re.findall(r"^\| `(\w+)` \|", tables["Settings"], re.M) == own
    assert re.findall(r"`(aqaa_\w+)`", tables["Metrics"]) == [metric.name for metric in metrics]


@pytest.mark.parametrize(("settings", "metrics"), SERVICES, ids=["tokenizer", "vocoder"])
def test_a_page_states_the_defaults(settings, metrics):
    page = (ROOT / "services" / settings.service / "README.md").read_text(encoding="utf-8")
    for name, stated in re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.M):
        assert settings.model_fields[name].default == float(stated), name
