"""Counts as Prometheus reads them: text, rendered by prometheus-client from a registry of our own.

A worker's counts begin anew with every worker, which Prometheus takes for the restart that it is;
while there is none, its metrics have no values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from contract.stats import Distribution, EngineStats, Metric, MetricKind, Sample

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Exposition(Collector):
    """Renders what is counted at the moment of asking.

    Args:
        metrics: By name; values of other names are not shown.
        stats: Called for each text.
    """

    def __init__(self, metrics: Mapping[str, Metric], stats: Callable[[], EngineStats]):
        self._metrics = metrics
        self._stats = stats
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """The text of `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[_Family]:
        """One family per metric, also of those without a value yet."""
        stats = self._stats()
        samples: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in stats.samples:
            samples[sample.name].append(sample)
        distributions: defaultdict[str, list[Distribution]] = defaultdict(list)
        for distribution in stats.distributions:
            distributions[distribution.name].append(distribution)
        for name, metric in self._metrics.items():
            if metric.kind is MetricKind.HISTOGRAM:
                yield _histogram(metric, distributions[name])
            else:
                yield _numbers(metric, samples[name])


def _numbers(metric: Metric, samples: list[Sample]) -> CounterMetricFamily | GaugeMetricFamily:
    is_counter = metric.kind is MetricKind.COUNTER
    make = CounterMetricFamily if is_counter else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    for sample in samples:
        family.add_metric(sample.labels, sample.value)
    return family


def _histogram(metric: Metric, distributions: list[Distribution]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    ends = [*map(str, metric.bounds), "+Inf"]
    for distribution in distributions:
        cumulated = accumulate(distribution.counts)
        family.add_metric(
            distribution.labels,
            buckets=list(zip(ends, map(float, cumulated), strict=True)),
            sum_value=distribution.total,
        )
    return family
