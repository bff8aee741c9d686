"""What the llm service says about itself is so: settings, metrics, files; torch only where it computes."""

import subprocess
import sys
from pathlib import Path

from aqaa.config import ServiceSettings
from aqaa.telemetry import catalogue
from services.llm.config import LlmSettings

FOLDER = Path(__file__).parents[4] / "services" / "llm"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_every_setting_and_metric_is_in_the_readme_and_no_other():
    own = set(LlmSettings.model_fields) - set(ServiceSettings.model_fields)
    section = README.split("## Settings")[1].split("## Metrics")[0]
    named = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    assert named == own
    section = README.split("## Metrics")[1]
    named = {
        word for line in section.splitlines() for word in line.split("`") if word.startswith("aqaa_llm_")
    }
    assert named == {metric.name for metric in catalogue.LLM}


def test_every_file_is_in_the_readme():
    named = {word for word in README.split("`") if word.endswith(".py") and " " not in word}
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py") if path.name != "__init__.py"}
    assert files == {name for name in named if not name.startswith("aqaa/")}


def test_the_facade_needs_no_torch():
    program = f"""
import sys
sys.path.insert(0, {str(FOLDER.parents[1])!r})
sys.modules["torch"] = None
import services.llm.service, services.llm.engines
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
