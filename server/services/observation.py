"""Observation: what the API and its worker have counted, with how things stand now."""

from __future__ import annotations

from collections.abc import Iterator

from contract.stats import ENGINE_METRICS, EngineStats, Metric, Sample
from contract.work import WorkClass
from server.meters import (
    API_METRICS,
    BYTES,
    BYTES_LIMIT,
    BYTES_WAITING,
    CALLS_RUNNING,
    CALLS_WAITING,
    CONNECTIONS,
    PICTURE_HITS,
    PICTURE_MISSES,
    PREDICTED_WAIT_SECONDS,
    READY,
    WORKER_STARTS,
    Meters,
)
from server.services.admission import Admission
from server.services.dispatch import Dispatcher, SupervisedEngine
from server.services.images import ImageDecoder

ALL_METRICS: dict[str, Metric] = {**API_METRICS, **ENGINE_METRICS}


class Observation:
    """Reads; changes nothing."""

    def __init__(
        self,
        *,
        meters: Meters,
        dispatcher: Dispatcher,
        engine: SupervisedEngine,
        decoder: ImageDecoder,
        admission: Admission,
    ):
        self._meters = meters
        self._dispatcher = dispatcher
        self._engine = engine
        self._decoder = decoder
        self._admission = admission

    def stats(self) -> EngineStats:
        """Everything that `ALL_METRICS` names, as far as it has a value."""
        counted, of_worker = self._meters.stats(), self._engine.stats()
        return EngineStats(
            samples=(*counted.samples, *self._present(), *of_worker.samples),
            distributions=(*counted.distributions, *of_worker.distributions),
        )

    def _present(self) -> list[Sample]:
        status = self._engine.status()
        is_ready = status.state == "ready" and not self._dispatcher.is_draining
        waiting, running = self._dispatcher.calls_waiting(), self._dispatcher.calls_running()
        pictures, connections = self._decoder.counts(), self._admission.connections
        return [
            _sample(READY, is_ready),
            _sample(WORKER_STARTS, status.num_starts),
            _sample(PICTURE_HITS, pictures.hits),
            _sample(PICTURE_MISSES, pictures.misses),
            *(_sample(CALLS_WAITING, waiting[c], c.value) for c in WorkClass),
            *(_sample(CALLS_RUNNING, running[c], c.value) for c in WorkClass),
            *(
                _sample(PREDICTED_WAIT_SECONDS, self._dispatcher.predicted_wait(c), c.value)
                for c in WorkClass
            ),
            *self._shared(),
            _sample(CONNECTIONS, connections.num_admitted, "open"),
            _sample(CONNECTIONS, connections.num_held, "held"),
        ]

    def _shared(self) -> Iterator[Sample]:
        for what, budget in self._admission.budgets().items():
            yield _sample(BYTES, budget.used, what)
            yield _sample(BYTES_LIMIT, budget.limit, what)
            yield _sample(BYTES_WAITING, budget.num_waiting, what)


def _sample(metric: Metric, value: float, *labels: str) -> Sample:
    return Sample(name=metric.name, labels=labels, value=float(value))
