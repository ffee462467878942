"""What a trainer counts about itself: the metrics, and their values on the way to the API.

A trainer cannot serve HTTP; it says its numbers now and then, and the API shows them at `/metrics`.
They count from the start of the worker. No label holds a picture, a prompt, a key, or an id other
than that of a finetune.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class MetricKind(StrEnum):
    """How Prometheus reads a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric; `bounds` are the upper ends of a histogram's buckets, without the infinite."""

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The value of a counter or gauge; `labels` are values, in the metric's order."""

    name: str
    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """A histogram: how many fell into each bucket (not cumulated, the infinite last), their sum."""

    name: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Everything that a worker has counted so far."""

    samples: tuple[Sample, ...] = ()
    distributions: tuple[Distribution, ...] = ()


ENGINE_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="moontune_prompt_positions_total",
            kind=MetricKind.COUNTER,
            help="Positions of prompts and pictures that were run through the model.",
            labels=("work_class",),
        ),
        Metric(
            name="moontune_sampled_tokens_total",
            kind=MetricKind.COUNTER,
            help="Tokens drawn, by the finetune that drew them (base: the base model).",
            labels=("work_class", "finetune_id"),
        ),
        Metric(
            name="moontune_decode_ticks_total",
            kind=MetricKind.COUNTER,
            help="Decode steps; each gives every running row one token.",
        ),
        Metric(
            name="moontune_decode_rows",
            kind=MetricKind.HISTOGRAM,
            help="Rows that shared a decode step.",
            bounds=_ROWS,
        ),
        Metric(
            name="moontune_rows_running",
            kind=MetricKind.GAUGE,
            help="Answers that are growing now.",
        ),
        Metric(
            name="moontune_requests_waiting",
            kind=MetricKind.GAUGE,
            help="Requests in the worker that wait for memory or for their turn.",
            labels=("work_class",),
        ),
        Metric(
            name="moontune_admission_seconds",
            kind=MetricKind.HISTOGRAM,
            help="From a request's arrival in the worker to the start of its prompt.",
            labels=("work_class",),
            bounds=_SECONDS,
        ),
        Metric(
            name="moontune_time_to_first_token_seconds",
            kind=MetricKind.HISTOGRAM,
            help="From a request's arrival in the worker to its first token.",
            labels=("work_class",),
            bounds=_SECONDS,
        ),
        Metric(
            name="moontune_device_seconds_total",
            kind=MetricKind.COUNTER,
            help="Time of the device by the kind of work that had it.",
            labels=("work_class",),
        ),
        Metric(
            name="moontune_train_micro_steps_total",
            kind=MetricKind.COUNTER,
            help="Parts of train steps; between two of them answers grow.",
        ),
        Metric(
            name="moontune_cache_hits_total",
            kind=MetricKind.COUNTER,
            help="What was asked of a cache and found there.",
            labels=("cache",),
        ),
        Metric(
            name="moontune_cache_misses_total",
            kind=MetricKind.COUNTER,
            help="What was asked of a cache and not found.",
            labels=("cache",),
        ),
        Metric(
            name="moontune_cache_evictions_total",
            kind=MetricKind.COUNTER,
            help="What a cache gave up to make room.",
            labels=("cache",),
        ),
        Metric(
            name="moontune_cache_bytes",
            kind=MetricKind.GAUGE,
            help="What a cache holds.",
            labels=("cache",),
        ),
        Metric(
            name="moontune_kv_blocks",
            kind=MetricKind.GAUGE,
            help="Blocks of keys and values of growing answers: used, promised, or all there are.",
            labels=("state",),
        ),
        Metric(
            name="moontune_shared_answers_total",
            kind=MetricKind.COUNTER,
            help="Greedy requests that joined the computation of an equal one.",
        ),
    )
}
"""By name. The first word of every name is `moontune_`."""
