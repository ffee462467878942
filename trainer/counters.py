"""What the worker counts, for `contract.stats`: plain numbers, gathered when they are asked for."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from contract.stats import ENGINE_METRICS, Distribution, EngineStats, MetricKind, Sample
from contract.told_apart import Key, ToldApart


@dataclass
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0


class Counters:
    """All numbers of one worker. Names and labels are those of `ENGINE_METRICS`."""

    def __init__(self) -> None:
        self._counts = ToldApart()
        self._gauges: dict[Key, float] = {}
        self._histograms: dict[Key, _Histogram] = {}

    def count(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Add to a counter."""
        metric = ENGINE_METRICS[name]
        assert metric.kind is MetricKind.COUNTER
        self._counts.add(metric, labels, by)

    def show(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        assert ENGINE_METRICS[name].kind is MetricKind.GAUGE
        self._gauges[name, labels] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Put a value into a histogram."""
        key = name, labels
        if key not in self._histograms:
            bounds = ENGINE_METRICS[name].bounds
            self._histograms[key] = _Histogram(bounds, [0] * (len(bounds) + 1))
        histogram = self._histograms[key]
        histogram.counts[bisect_left(histogram.bounds, value)] += 1
        histogram.total += value

    def value(self, name: str, *labels: str) -> float:
        """A counter or gauge; 0 before anything was counted."""
        values = self._gauges if (name, labels) in self._gauges else self._counts.values
        return values.get((name, labels), 0.0)

    def gathered(self) -> EngineStats:
        """Everything so far."""
        return EngineStats(
            samples=tuple(
                Sample(name=name, labels=labels, value=value)
                for (name, labels), value in {**self._counts.values, **self._gauges}.items()
            ),
            distributions=tuple(
                Distribution(name=name, labels=labels, counts=tuple(h.counts), total=h.total)
                for (name, labels), h in self._histograms.items()
            ),
        )
