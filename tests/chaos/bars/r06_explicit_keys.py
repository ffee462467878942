"""R6: calls with and without keys, lost answers, restarts, days that pass, against a model."""

from __future__ import annotations

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.chaos.bench import Bench, Verdict
from tests.chaos.silence import silence
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
