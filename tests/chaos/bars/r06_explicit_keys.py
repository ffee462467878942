"""R6: calls with and without keys, lost answers, restarts, against a model of forty lines."""

from __future__ import annotations

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from server.logs import configure_logs
from tests.chaos.bench import Bench, Verdict
from tests.property.server.test_resends_model import Resends

ID = "R6"
TITLE = "explicit keys and resends against a model"
NUM_STEPS = 30


def run(bench: Bench) -> Verdict:
    configure_logs("error")
    num_runs = bench.count(commit=200, full=2000)
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
    return Verdict(figures={"runs": num_runs, "steps_a_run": NUM_STEPS})
