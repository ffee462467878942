"""R7: a request that kills the worker is tried twice and refused; a worker that cannot start is
started again with growing pauses, and says why."""

from __future__ import annotations

import time
import urllib.error

from tests.chaos.bench import Bench, Crew, Verdict, crew, new_run
from tests.chaos.load import unlike
from tests.chaos.sdk import Patience, Tuned, patience, sft
from tests.chaos.waiting import until

ID = "R7"
TITLE = "poison, and a worker that cannot start"
POISON = "train.plan=segv!"
MAX_TRIES = 2
CANNOT_START = "worker.load=exit!"
PRODUCTION_RESTARTS = (1.0, 60.0, 10)
KNOWN_SECONDS = 2.0


def run(bench: Bench) -> Verdict:
    verdict = _poison(bench)
    verdict.add(_cannot_start(bench))
    return verdict


def _poison(bench: Bench) -> Verdict:
    """In these lives the first train step of each worker is its last; others ask meanwhile."""
    num_poisons = bench.count(commit=1, full=5)
    deaths = 0
    with bench.service("r07") as service, patience(Patience()):
        service.start()
        history, client = new_run(service)
        poisoned, other = client.create("poisoned"), client.create("other")
        for tuned in (poisoned, other):
            tuned.train([sft(0)])
        verdict = Verdict()
        for number in range(num_poisons):
            service.stop()
            service.start(fault=POISON)
            before = len(service.lives())
            with crew() as clients:
                clients.start(lambda: _ask(other, clients))
                _expect_refusal(poisoned, number, verdict)
            deaths += len(service.lives()) - before
            verdict.violations += [f"another lost: {error!r}" for error in clients.errors]
            service.stop()
            service.start()
            for tuned in (poisoned, other):
                tuned.train([sft(1)], lr=unlike(100 + number))
        verdict.demand(
            deaths == MAX_TRIES * num_poisons, f"{num_poisons} poisons took {deaths} workers"
        )
        verdict.add(bench.check(service, history))
    verdict.figures |= {"poisons": num_poisons, "workers_killed_by_them": deaths}
    return verdict


def _expect_refusal(tuned: Tuned, number: int, verdict: Verdict) -> None:
    try:
        tuned.train([sft(number)], lr=unlike(number), may_fail=True)
    except urllib.error.HTTPError as error:
        said = getattr(error, "said", "")
        verdict.demand(
            error.code == 422 and "request_crashes_worker" in said,
            f"poison was refused with {error.code}: {said}",
        )
    else:
        verdict.violations.append("poison was answered")


def _ask(tuned: Tuned, clients: Crew) -> None:
    number = 0
    while not clients.stop.is_set():
        tuned.rollouts(number)
        tuned.save()
        number += 1


def _cannot_start(bench: Bench) -> Verdict:
    """Every life ends while the model loads; the production pauses hold."""
    verdict = Verdict()
    watched_seconds = bench.count(commit=5, full=61)
    with bench.service("r07-start", restarts=PRODUCTION_RESTARTS) as service:
        service.start(fault=CANNOT_START, ready=False)
        service.until_healthy()
        until(lambda: service.lives(), "the first worker is started")
        first_at = time.monotonic()

        def knows() -> bool:
            status, answer = service.get("/readyz")
            return status == 503 and "exit status 137" in str(answer)

        until(knows, "/readyz says why")
        known_seconds = time.monotonic() - first_at
        end = first_at + watched_seconds
        statuses = set[int]()
        while time.monotonic() < end:
            statuses.add(service.get("/healthz")[0])
            time.sleep(0.1)
        num_starts = len(service.lives())
        service.stop()
    # Pauses of 1, 2, 4, 8 ... s: starts at 0, 1, 3, 7, 15, 31 and 63 s, or later.
    allowed = sum(2**n - 1 <= watched_seconds for n in range(7))
    verdict.demand(statuses == {200}, f"/healthz answered {sorted(statuses)}")
    verdict.demand(
        1 < num_starts <= allowed, f"{num_starts} starts in {watched_seconds} s, not {allowed}"
    )
    verdict.demand(known_seconds <= KNOWN_SECONDS, f"/readyz said why after {known_seconds:.1f} s")
    verdict.figures |= {
        "starts_of_a_worker_that_cannot": num_starts,
        "in_seconds": watched_seconds,
        "cause_known_after_seconds": known_seconds,
    }
    return verdict
