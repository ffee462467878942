"""R6: calls with and without keys, lost answers, restarts, against a model of forty lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chaos.bench import Bench, Verdict
from tests.property.server.test_resends_model import Resends

ID = "R6"
TITLE = "explicit keys and resends against a model"
NUM_STEPS = 30


def run(bench: Bench) -> Verdict:
    num_runs = bench.count(commit=200, full=2000)
    with silence():
        _play(bench, num_runs)
    return Verdict(figures={"runs": num_runs, "steps_a_run": NUM_STEPS})


def _play(bench: Bench, num_runs: int) -> None:
    run_state_machine_as_test(
        seed(bench.seed)(Resends),
        settings=settings(
            max_examples=num_runs,
            stateful_step_count=NUM_STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@contextmanager
def silence() -> Iterator[None]:
    """Thousands of calls are answered in this process; bars after this one read its log again."""
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.reset_defaults()
