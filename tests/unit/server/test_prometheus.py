"""What was counted is what Prometheus reads."""

from __future__ import annotations

import math
from collections.abc import Iterable

from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from contract.stats import (
    ENGINE_METRICS,
    Distribution,
    EngineStats,
    Metric,
    MetricKind,
    Sample,
)
from server.meters import API_METRICS, HTTP_SECONDS, STEPS, Meters
from server.prometheus import Exposition

ALL_LABELS = {
    "work_class",
    "finetune_id",
    "cache",
    "state",
    "applied",
    "route",
    "status",
    "code",
    "what",
}
COUNTER = Metric(name="moontune_things_total", kind=MetricKind.COUNTER, help="Things.")
GAUGE = Metric(name="moontune_level", kind=MetricKind.GAUGE, help="Level.", labels=("state",))
HISTOGRAM = Metric(
    name="moontune_wait_seconds",
    kind=MetricKind.HISTOGRAM,
    help='A "wait" with a \\ and\na second line.',
    labels=("work_class",),
    bounds=(0.5, 2.0),
)
METRICS = {metric.name: metric for metric in (COUNTER, GAUGE, HISTOGRAM)}


def families(stats: EngineStats, metrics: dict[str, Metric] = METRICS) -> dict[str, Family]:
    return {family.name: family for family in read(Exposition(metrics, lambda: stats).text())}


def read(text: bytes) -> Iterable[Family]:
    return text_string_to_metric_families(text.decode())


def test_counters_and_gauges_are_read_back() -> None:
    found = families(
        EngineStats(
            samples=(
                Sample(name=COUNTER.name, labels=(), value=3.0),
                Sample(name=GAUGE.name, labels=('used "now"\n',), value=0.25),
                Sample(name=GAUGE.name, labels=("promised",), value=-1.0),
            )
        )
    )
    assert [(s.name, s.labels, s.value) for s in found["moontune_things"].samples] == [
        ("moontune_things_total", {}, 3.0)
    ]
    assert found["moontune_things"].type == "counter"
    assert [(s.labels, s.value) for s in found["moontune_level"].samples] == [
        ({"state": 'used "now"\n'}, 0.25),
        ({"state": "promised"}, -1.0),
    ]


def test_the_buckets_of_a_histogram_are_cumulated() -> None:
    found = families(
        EngineStats(
            distributions=(
                Distribution(name=HISTOGRAM.name, labels=("a",), counts=(3, 0, 4), total=9.5),
            )
        )
    )["moontune_wait_seconds"]
    assert found.documentation == HISTOGRAM.help
    values = {(s.name, s.labels.get("le")): s.value for s in found.samples}
    assert values == {
        ("moontune_wait_seconds_bucket", "0.5"): 3.0,
        ("moontune_wait_seconds_bucket", "2.0"): 3.0,
        ("moontune_wait_seconds_bucket", "+Inf"): 7.0,
        ("moontune_wait_seconds_count", None): 7.0,
        ("moontune_wait_seconds_sum", None): 9.5,
    }


def test_a_metric_without_a_value_is_named_and_an_unknown_value_is_left_out() -> None:
    unknown = Sample(name="moontune_unheard_of", labels=(), value=1.0)
    found = families(EngineStats(samples=(unknown,)))
    assert set(found) == {"moontune_things", "moontune_level", "moontune_wait_seconds"}
    assert not any(family.samples for family in found.values())


def test_what_meters_count_is_what_is_read() -> None:
    meters = Meters()
    meters.count(STEPS, "F", "true")
    meters.count(STEPS, "F", "true")
    meters.count(STEPS, "G", "false")
    for seconds in (0.005, 0.006, 1e9):
        meters.observe(HTTP_SECONDS, seconds, "/healthz")
    found = families(meters.stats(), API_METRICS)
    assert [(s.labels, s.value) for s in found["moontune_steps"].samples] == [
        ({"finetune_id": "F", "applied": "true"}, 2.0),
        ({"finetune_id": "G", "applied": "false"}, 1.0),
    ]
    buckets = {
        float(s.labels["le"]): s.value
        for s in found["moontune_http_seconds"].samples
        if "le" in s.labels
    }
    # A bound belongs to its own bucket: le means less or equal.
    assert (buckets[0.005], buckets[0.01], buckets[900.0], buckets[math.inf]) == (1, 2, 2, 3)


def test_labels_are_those_that_may_be_seen() -> None:
    metrics = [*API_METRICS.values(), *ENGINE_METRICS.values()]
    assert {label for metric in metrics for label in metric.labels} == ALL_LABELS
    assert not set(API_METRICS) & set(ENGINE_METRICS)
    for metric in metrics:
        assert metric.name.startswith("moontune_")
        assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER), metric.name
        assert bool(metric.bounds) == (metric.kind is MetricKind.HISTOGRAM), metric.name
