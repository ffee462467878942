"""R8: a silent worker is replaced, and what it does when it comes back changes nothing."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing

from tests.chaos.bench import Bench, Verdict, crew, new_run
from tests.chaos.forge import until_dead
from tests.chaos.load import unlike
from tests.chaos.phases import Phase, Watch
from tests.chaos.sdk import Patience, patience, sft
from tests.chaos.service import Service
from tests.chaos.waiting import until

ID = "R8"
TITLE = "silent workers and their return"
SILENCE_SECONDS = 1.0
SLACK_SECONDS = 5.0
STATES_SILENCE_SECONDS = 3.0
NUM_STATES = 12
NUM_WAITING = 40
"""More than the turns of rollouts and inference, by default."""
ROLLOUTS_WAIT = 'moontune_calls_waiting{work_class="rollouts"}'


def run(bench: Bench) -> Verdict:
    verdict = _zombies(bench)
    verdict.add(_states(bench))
    return verdict


def _zombies(bench: Bench) -> Verdict:
    """A worker is stopped within a step until it was replaced, then goes on; no signal of the
    supervisor reaches it, as if it sat in the kernel."""
    num_zombies = bench.count(commit=6, full=50)
    stopped_in = Counter[Phase | None]()
    slowest = 0.0
    options = {"worker_silence_seconds": SILENCE_SECONDS}
    with bench.service("r08", options=options) as service, patience(Patience()):
        service.start()
        history, client = new_run(service)
        tuned = client.create("haunted")
        tuned.train([sft(0)])
        watch = Watch(service, tuned.id)
        bench.forge.keep_orphans(True)
        try:
            for number in range(num_zombies):
                before = len(history.calls)
                with crew() as clients:
                    clients.start(lambda n=number: tuned.train([sft(n)], lr=unlike(n)))
                    until(lambda n=before: len(history.calls) > n, "the step is asked for")
                    call = history.calls[-1]
                    worker = service.worker()
                    until(
                        lambda c=call: watch.phase(c) not in (Phase.BEFORE_ROW,),
                        "the step has its row",
                    )
                    time.sleep(bench.random.uniform(0.0, 0.05))
                    worker.signal(signal.SIGSTOP)
                    stopped_in[watch.phase(call)] += 1
                slowest = max(slowest, call.seconds)
                tuned.train([sft(number)], lr=unlike(1000 + number))
                worker.signal(signal.SIGCONT)
                if service.lives()[-1].pid != worker.pid:
                    until_dead(worker.pid)
        finally:
            bench.forge.keep_orphans(False)
        watch.close()
        verdict = bench.check(service, history)
    verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
    verdict.figures |= {
        "zombies": num_zombies,
        "stopped_in": {str(phase.value if phase else "idle"): n for phase, n in stopped_in.items()},
        "slowest_step_seconds": slowest,
    }
    verdict.demand(
        slowest <= SILENCE_SECONDS + SLACK_SECONDS, f"a silent worker cost {slowest:.1f} s"
    )
    return verdict


def _states(bench: Bench) -> Verdict:
    """What /healthz and /readyz say in each state; that of a database that is gone is R12's."""
    verdict = Verdict()
    seen: dict[str, tuple[int, int]] = {}

    def look(state: str, service: Service, ready: int, healthy: int = 200) -> None:
        seen[state] = service.get("/healthz")[0], service.get("/readyz")[0]
        wanted = healthy, ready
        verdict.demand(seen[state] == wanted, f"{state}: {seen[state]}, not {wanted}")

    options = {"worker_silence_seconds": STATES_SILENCE_SECONDS}
    with (
        bench.service("r08-states", restarts=(1.0, 60.0, 10), options=options) as service,
        patience(Patience()),
    ):
        service.start(fault="worker.start=slow:700,worker.load=slow:700", ready=False)
        service.until_healthy()
        look("the worker starts", service, 503)
        until(lambda: "loading" in str(service.get("/readyz")[1]), "the model is loading")
        look("the model loads", service, 503)
        service.until_ready()
        look("idle", service, 200)
        _history, client = new_run(service)
        tuned = client.create("states")
        tuned.train([sft(0)])
        worker = service.worker()
        with crew() as clients:
            worker.signal(signal.SIGSTOP)
            clients.start(lambda: tuned.train([sft(1)]))
            until(
                lambda: service.metric('moontune_calls_running{work_class="training"}'), "it runs"
            )
            look("a step runs", service, 200)
            clients.start(lambda: tuned.rollouts(1))
            until(
                lambda: service.metric('moontune_calls_running{work_class="rollouts"}'), "they run"
            )
            look("rollouts run, too", service, 200)
            worker.kill()
            until(lambda: service.get("/readyz")[0] == 503, "the death is known")
            look("the worker died, and the next has to wait", service, 503)
            service.worker_after(worker.index)
            until(lambda: service.get("/readyz")[0] == 200, "the next one is ready")
            look("after a restart", service, 200)
        with closing(sqlite3.connect(service.database_path, isolation_level=None)) as outsider:
            outsider.execute("BEGIN IMMEDIATE")
            look("somebody else writes the database", service, 200)
            outsider.execute("ROLLBACK")
        with crew() as waiting:
            worker = service.worker()
            worker.signal(signal.SIGSTOP)
            for number in range(NUM_WAITING):
                waiting.start(lambda n=number: tuned.rollouts(n))
            until(lambda: service.metric(ROLLOUTS_WAIT) > 0, "some wait")
            look("more calls than turns", service, 200)
            until(lambda: service.get("/readyz")[0] == 503, "the silence is noticed")
            look("a silent worker was killed", service, 503)
            service.until_healthy()
            until(lambda: service.get("/readyz")[0] == 200, "the next one is ready")
        with crew() as last:
            worker = service.worker()
            worker.signal(signal.SIGSTOP)
            last.start(lambda: tuned.train([sft(2)]))
            until(
                lambda: service.metric('moontune_calls_running{work_class="training"}'), "it runs"
            )
            service.signal(signal.SIGTERM)
            until(lambda: service.get("/healthz")[0] == 0, "nobody is let in")
            look("it ends, and finishes a step", service, 0, healthy=0)
            worker.signal(signal.SIGCONT)
            verdict.demand(service.api.wait() == 0, "the API ended in disorder")
            service.until_no_worker()
            service.start()
        errors = [*clients.errors, *waiting.errors, *last.errors]
        verdict.violations += [f"a client gave up: {error!r}" for error in errors]
        service.stop()
        service.start(fault="worker.load=exit!", ready=False)
        service.until_healthy()
        until(lambda: "exit status" in str(service.get("/readyz")[1]), "the cause is known")
        look("no worker can start", service, 503)
        service.stop()
    verdict.demand(len(seen) == NUM_STATES, f"{len(seen)} states were looked at")
    verdict.figures["states_told_truly"] = len(seen)
    return verdict
