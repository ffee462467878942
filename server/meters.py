"""What this process counts about itself, in the shape in which a trainer tells its own counts.

No label holds a picture, a prompt, a key, a path, or an id other than that of a finetune.
"""

from __future__ import annotations

from bisect import bisect_left

from contract.stats import Distribution, EngineStats, Metric, MetricKind, Sample
from contract.told_apart import ToldApart

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)

QUEUE_SECONDS = Metric(
    name="moontune_queue_seconds",
    kind=MetricKind.HISTOGRAM,
    help="From the end of a call's body to its turn with the worker.",
    labels=("work_class",),
    bounds=_SECONDS,
)
CALLS_WAITING = Metric(
    name="moontune_calls_waiting",
    kind=MetricKind.GAUGE,
    help="Calls that wait for their turn with the worker.",
    labels=("work_class",),
)
CALLS_RUNNING = Metric(
    name="moontune_calls_running",
    kind=MetricKind.GAUGE,
    help="Calls that have their turn with the worker.",
    labels=("work_class",),
)
PREDICTED_WAIT_SECONDS = Metric(
    name="moontune_predicted_wait_seconds",
    kind=MetricKind.GAUGE,
    help="How long one more call would wait for its turn, as calls went lately.",
    labels=("work_class",),
)
REFUSALS = Metric(
    name="moontune_overload_refusals_total",
    kind=MetricKind.COUNTER,
    help="Calls that were answered 503, by the code of the answer.",
    labels=("route", "code"),
)
STATE_DAMAGED = Metric(
    name="moontune_state_damaged_total",
    kind=MetricKind.COUNTER,
    help="Calls that were refused because a file or the database is damaged.",
    labels=("route",),
)
BYTES = Metric(
    name="moontune_bytes_held",
    kind=MetricKind.GAUGE,
    help="What the calls under way have of what they share: bodies (all), body_memory (of these, in"
    " memory), json (estimated), step_pixels, answer_pixels and batch_pixels.",
    labels=("what",),
)
BYTES_LIMIT = Metric(
    name="moontune_bytes_limit",
    kind=MetricKind.GAUGE,
    help="How much of it they may have.",
    labels=("what",),
)
BYTES_WAITING = Metric(
    name="moontune_waiting_for_bytes",
    kind=MetricKind.GAUGE,
    help="Calls that wait until others give some of it back.",
    labels=("what",),
)
CONNECTIONS = Metric(
    name="moontune_connections",
    kind=MetricKind.GAUGE,
    help="Connections that are read from (open), or wait unread for others to end (held).",
    labels=("state",),
)
LOOP_LAG_SECONDS = Metric(
    name="moontune_loop_lag_seconds",
    kind=MetricKind.HISTOGRAM,
    help="How late the service's event loop was, looked at some twenty times a second.",
    bounds=_SECONDS,
)
READY = Metric(
    name="moontune_ready",
    kind=MetricKind.GAUGE,
    help="1 while a model is loaded and calls are accepted, else 0.",
)
WORKER_STARTS = Metric(
    name="moontune_worker_starts_total",
    kind=MetricKind.COUNTER,
    help="Workers that were started; all but the first replace one that ended.",
)
STEPS = Metric(
    name="moontune_steps_total",
    kind=MetricKind.COUNTER,
    help="Train steps that were committed; applied is false for one that changed nothing.",
    labels=("finetune_id", "applied"),
)
STEPS_NOT_FINITE = Metric(
    name="moontune_steps_not_finite_total",
    kind=MetricKind.COUNTER,
    help="Train steps that changed nothing because loss or gradient was not finite.",
    labels=("finetune_id",),
)
STEPS_JOINED = Metric(
    name="moontune_steps_joined_total",
    kind=MetricKind.COUNTER,
    help="Train step calls that joined one that was running with the same bytes.",
)
STEPS_REPLAYED = Metric(
    name="moontune_steps_replayed_total",
    kind=MetricKind.COUNTER,
    help="Train step calls that got the stored answer of a step, because nobody had taken it.",
)
ROLLOUTS_TAKEN_OVER = Metric(
    name="moontune_rollouts_taken_over_total",
    kind=MetricKind.COUNTER,
    help="Rollouts calls that took over what a caller with the same bytes had left.",
)
PICTURE_HITS = Metric(
    name="moontune_picture_cache_hits_total",
    kind=MetricKind.COUNTER,
    help="Pictures that were decoded before, or were being decoded, when they were asked for.",
)
PICTURE_MISSES = Metric(
    name="moontune_picture_cache_misses_total",
    kind=MetricKind.COUNTER,
    help="Pictures that had to be decoded.",
)
HTTP_REQUESTS = Metric(
    name="moontune_http_requests_total",
    kind=MetricKind.COUNTER,
    help="Requests by the pattern of their address and the status of the answer.",
    labels=("route", "status"),
)
HTTP_SECONDS = Metric(
    name="moontune_http_seconds",
    kind=MetricKind.HISTOGRAM,
    help="From a request's first byte to the last of its answer.",
    labels=("route",),
    bounds=_SECONDS,
)

API_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        QUEUE_SECONDS,
        CALLS_WAITING,
        CALLS_RUNNING,
        PREDICTED_WAIT_SECONDS,
        REFUSALS,
        STATE_DAMAGED,
        BYTES,
        BYTES_LIMIT,
        BYTES_WAITING,
        CONNECTIONS,
        LOOP_LAG_SECONDS,
        READY,
        WORKER_STARTS,
        STEPS,
        STEPS_NOT_FINITE,
        STEPS_JOINED,
        STEPS_REPLAYED,
        ROLLOUTS_TAKEN_OVER,
        PICTURE_HITS,
        PICTURE_MISSES,
        HTTP_REQUESTS,
        HTTP_SECONDS,
    )
}
"""By name."""


class Meters:
    """The counters and histograms of one application; used by its event loop's thread alone."""

    def __init__(self) -> None:
        self._counts = ToldApart()
        self._observed: dict[tuple[str, tuple[str, ...]], _Tally] = {}

    def count(self, metric: Metric, *labels: str) -> None:
        """Count one."""
        self._counts.add(metric, labels, 1)

    def observe(self, metric: Metric, value: float, *labels: str) -> None:
        """Put one value into a histogram."""
        key = (metric.name, labels)
        if key not in self._observed:
            self._observed[key] = _Tally(metric.bounds)
        self._observed[key].add(value)

    def stats(self) -> EngineStats:
        """Everything counted so far."""
        return EngineStats(
            samples=tuple(
                Sample(name=name, labels=labels, value=count)
                for (name, labels), count in self._counts.values.items()
            ),
            distributions=tuple(
                Distribution(
                    name=name, labels=labels, counts=tuple(tally.counts), total=tally.total
                )
                for (name, labels), tally in self._observed.items()
            ),
        )


class _Tally:
    """How many values fell into each bucket, the infinite one last, and their sum."""

    def __init__(self, bounds: tuple[float, ...]):
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1  # a bound belongs to its bucket
        self.total += value
