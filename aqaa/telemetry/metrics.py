"""Metrics of a service: what a metric is, and a registry's worth of them. ``catalogue`` lists them all.

registry = CollectorRegistry()
metrics = Metrics(registry, catalogue.RPC, catalogue.TOKENIZER)
metrics[catalogue.TOKENIZER_BATCH].observe(3)
metrics[catalogue.RPC_IN_FLIGHT].labels(method="/aqaa.v1.TokenizerService/Tokenize").inc()
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, cast

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

Exported = TypeVar("Exported", bound=MetricWrapperBase)


@dataclass(frozen=True)
class Metric(Generic[Exported]):
    """``name`` is what Prometheus shows, unit and ``_total`` included."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    kind: ClassVar[str]

    @abstractmethod
    def export(self, registry: CollectorRegistry) -> Exported: ...


class Counter(Metric[prometheus_client.Counter]):
    """What has happened so far."""

    kind = "counter"

    def export(self, registry: CollectorRegistry) -> prometheus_client.Counter:
        return prometheus_client.Counter(self.name, self.help, self.labels, registry=registry)


class Gauge(Metric[prometheus_client.Gauge]):
    """What is now."""

    kind = "gauge"

    def export(self, registry: CollectorRegistry) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(self.name, self.help, self.labels, registry=registry)


@dataclass(frozen=True)
class Histogram(Metric[prometheus_client.Histogram]):
    """How values are spread. ``buckets``: upper bounds, ascending; what is larger is counted too."""

    buckets: tuple[float, ...] = ()

    kind = "histogram"

    def export(self, registry: CollectorRegistry) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            self.name, self.help, self.labels, buckets=self.buckets, registry=registry
        )


AnyMetric = Metric[Any]


class Metrics:
    """The metrics of one service, in its own registry. A metric of another service is a KeyError."""

    def __init__(self, registry: CollectorRegistry, *parts: Iterable[AnyMetric]) -> None:
        self.registry = registry
        self._exported = {metric: metric.export(registry) for part in parts for metric in part}

    def __getitem__(self, metric: Metric[Exported]) -> Exported:
        if metric not in self._exported:
            raise KeyError(f"{metric.name} is not among this service's parts of the catalogue")
        return cast(Exported, self._exported[metric])
