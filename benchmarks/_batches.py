"""How many sessions share a pass through a model: by the services' metrics, before and after a load."""

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from aqaa.telemetry import catalogue
from benchmarks._stack import Stack

READ_SECONDS: Final = 30.0
BATCHES: Final = {
    "tokenizer": catalogue.TOKENIZER_BATCH,
    "llm": catalogue.LLM_BATCH,
    "vocoder": catalogue.VOCODER_BATCH,
}


@dataclass(frozen=True)
class Passes:
    """Passes through a model and how many sessions were in them, a session once for each pass."""

    count: int
    sessions: int

    @property
    def mean(self) -> float | None:
        """Sessions in a pass; None where there was no pass."""
        return self.sessions / self.count if self.count else None

    def since(self, before: "Passes") -> "Passes":
        return Passes(self.count - before.count, self.sessions - before.sessions)


def passes(stack: Stack) -> dict[str, Passes]:
    """Of each stage, since it was started."""
    return {stage: passes_in(_page(stack.metrics[stage]), stage) for stage in BATCHES}


def passes_in(page: str, stage: str) -> Passes:
    """What a page of metrics says of a stage. Raises KeyError where the page is of another one."""
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    name = BATCHES[stage].name
    return Passes(int(samples[f"{name}_count"]), int(samples[f"{name}_sum"]))


def between(before: Mapping[str, Passes], after: Mapping[str, Passes]) -> dict[str, Passes]:
    """What came between two readings."""
    return {stage: after[stage].since(before[stage]) for stage in before}


def _page(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=READ_SECONDS) as answer:
        return str(answer.read().decode())
