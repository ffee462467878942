"""R3: the API is killed under load and loses nothing answered; told to stop, it breaks nothing."""

from __future__ import annotations

import time

from tests.chaos.bench import Bench, Verdict, crew, new_run
from tests.chaos.load import Load
from tests.chaos.sdk import Patience, patience
from tests.chaos.service import GRACE_SECONDS

ID = "R3"
TITLE = "the API is killed and stopped under load"
NUM_CLIENTS = 3
RETURN_SECONDS = 5.0
EXIT_SECONDS = GRACE_SECONDS + 2.0
ENDURING = Patience(base_delay=0.2, max_delay=15.0)
"""35 s on average, half of the SDK's own: outlasts an API that is stopped again as soon as it is
ready, on a machine so busy that each of its starts takes many seconds."""


def run(bench: Bench) -> Verdict:
    verdict = _kill(bench)
    verdict.add(_stop(bench))
    return verdict


def _kill(bench: Bench) -> Verdict:
    """SIGKILL: what was answered is there, the rest is whole or absent."""
    num_kills = bench.count(commit=20, full=100)
    slowest = 0.0
    with bench.service("r03a") as service, patience(ENDURING):
        service.start()
        history, _ = new_run(service)
        with crew() as clients:
            load = Load(history=history, tuning=service.tuning, crew=clients, may_break=True)
            for number in range(NUM_CLIENTS):
                load.add(f"killed-{number}")
            for _ in range(num_kills):
                # Half of the kills meet a worker that is still loading.
                time.sleep(bench.random.uniform(0.0, 0.5))
                service.kill()
                started = time.monotonic()
                service.start(ready=False)
                service.until_healthy()
                slowest = max(slowest, time.monotonic() - started)
                if bench.random.random() < 0.5:
                    service.until_ready()
        verdict = bench.check(service, history)
    verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
    verdict.demand(slowest <= RETURN_SECONDS, f"/healthz was away for {slowest:.1f} s after a kill")
    verdict.figures |= {
        "api_kills": num_kills,
        "broken_answers_after_kills": load.num_broken,
        "slowest_return_seconds": slowest,
    }
    return verdict


def _stop(bench: Bench) -> Verdict:
    """SIGTERM: no answer breaks, and the exit comes in time."""
    num_stops = bench.count(commit=10, full=50)
    slowest = 0.0
    with bench.service("r03b") as service, patience(ENDURING):
        service.start()
        history, _ = new_run(service)
        with crew() as clients:
            load = Load(history=history, tuning=service.tuning, crew=clients)
            for number in range(NUM_CLIENTS):
                load.add(f"stopped-{number}")
            statuses = []
            for _ in range(num_stops):
                time.sleep(bench.random.uniform(0.0, 0.6))
                started = time.monotonic()
                statuses.append(service.stop())
                slowest = max(slowest, time.monotonic() - started)
                service.start()
        verdict = bench.check(service, history)
    verdict.violations += [f"an answer broke: {error!r}" for error in clients.errors]
    verdict.demand(not any(statuses), f"exit statuses {sorted(set(statuses))}")
    verdict.demand(slowest <= EXIT_SECONDS, f"an exit took {slowest:.1f} s")
    verdict.figures |= {"api_stops": num_stops, "slowest_exit_seconds": slowest}
    return verdict
