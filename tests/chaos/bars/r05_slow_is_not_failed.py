"""R5: slow is not failed, equal is not the same: each call is executed once, and as often as meant.

The worker is made slow by stopping it for a while, which no fault point could do more truly.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.bench import Bench, Verdict, crew, new_run
from tests.chaos.checker import check
from tests.chaos.history import History
from tests.chaos.sdk import Client, Patience, Tuned, patience, question, set_patience, sft
from tests.chaos.service import Service
from tests.chaos.waiting import until

ID = "R5"
TITLE = "slow is not failed, equal is not the same"
CALM = Patience(base_delay=0.01, max_delay=0.05)
SHORT_SECONDS = 0.6
"""The patience of a caller whose call takes three times as long."""
NUM_PATIENCES = 3.5
LINGER_SECONDS = 2.0
SLACK_SECONDS = 0.5
"""Of a busy machine."""
SLOW_ROLLOUTS = "rollouts.tick=slow:200"
NUM_PARALLEL = 8


def run(bench: Bench) -> Verdict:
    num_repeats = bench.count(commit=150, full=1000)
    verdict = Verdict()
    options = {"rollout_linger_seconds": LINGER_SECONDS}
    with bench.service("r05", options=options) as service, patience(CALM):
        service.start(counts_visits=True)
        history, client = new_run(service)
        tuned = client.create("equal")
        _slow_step(service, history, tuned, verdict)
        _slow_rollouts(service, history, tuned, verdict)
        _repeats(tuned, num_repeats, verdict)
        _parallel_steps(service, client, tuned, verdict)
        _other_between(tuned, verdict)
        untrained = client.create("untrained")  # what was trained has learned to be brief
        _parallel_rollouts(service, untrained, verdict)
        service.stop()
        service.start(fault=SLOW_ROLLOUTS)
        _orphan(service, untrained, verdict)
        verdict.add(check(service, history, bench.undisturbed, may_merge=True))
    verdict.figures["deliberate_repeats"] = num_repeats
    return verdict


@contextmanager
def _stopped_worker(service: Service) -> Iterator[None]:
    worker = service.worker()
    worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.signal(signal.SIGCONT)


def _slow_step(service: Service, history: History, tuned: Tuned, verdict: Verdict) -> None:
    set_patience(Patience(train=SHORT_SECONDS, base_delay=0.01, max_delay=0.05))
    before = tuned.train([sft(1)])["step"]
    begun = service.visits()["worker", "train.begin"]
    with crew() as clients, _stopped_worker(service):
        clients.start(lambda: tuned.train([sft(2)]))
        _wait_out_patience(history)
    set_patience(CALM)
    executions = service.visits()["worker", "train.begin"] - begun
    verdict.demand(executions == 1, f"the slow step was executed {executions} times")
    slow = history.calls[-1]
    verdict.violations += [f"the slow step: {error!r}" for error in clients.errors]
    verdict.demand(slow.is_ok and slow.step == before + 1, "the slow step was not step + 1")
    verdict.figures["slow_step_seconds"] = slow.seconds


def _slow_rollouts(service: Service, history: History, tuned: Tuned, verdict: Verdict) -> None:
    set_patience(Patience(request=SHORT_SECONDS, base_delay=0.01, max_delay=0.05))
    before = service.visits()["worker", "rollouts.begin"]
    with crew() as clients, _stopped_worker(service):
        clients.start(lambda: tuned.rollouts(1))
        _wait_out_patience(history)
    set_patience(CALM)
    executions = service.visits()["worker", "rollouts.begin"] - before
    verdict.violations += [f"the slow rollouts: {error!r}" for error in clients.errors]
    verdict.demand(executions == 1, f"slow rollouts were executed {executions} times")


def _wait_out_patience(history: History) -> None:
    """Until the newest call is in the middle of its caller's fourth attempt.

    At its end the answer would race the time-out, which is what R4 is about.
    """
    until(lambda: history.running(), "the slow call is made")
    call = history.running()[0]
    until(lambda: call.seconds > NUM_PATIENCES * SHORT_SECONDS, "the patience is over, thrice")


def _repeats(tuned: Tuned, count: int, verdict: Verdict) -> None:
    steps = [tuned.train([sft(3)])["step"] for _ in range(count)]
    wanted = list(range(steps[0], steps[0] + count))
    verdict.demand(steps == wanted, f"{count} equal steps in sequence ended at {steps[-1]}")


def _parallel_steps(service: Service, client: Client, tuned: Tuned, verdict: Verdict) -> None:
    answers: list[int] = []
    before = tuned.train([sft(4)])["step"]

    def train() -> None:
        answers.append(tuned.train([sft(5)])["step"])

    with crew() as clients, _stopped_worker(service):
        for _ in range(2):
            clients.start(train)
        until(lambda: _count_event(service, "step_joined") > 0, "the twin has joined")
    verdict.violations += [f"equal steps in parallel: {error!r}" for error in clients.errors]
    verdict.demand(
        answers == [before + 1] * 2, f"two equal steps in parallel after {before}: {answers}"
    )


def _count_event(service: Service, name: str) -> int:
    return sum(event.get("event") == name for event in service.log_events()[-50:])


def _other_between(tuned: Tuned, verdict: Verdict) -> None:
    steps = [tuned.train([sft(number)])["step"] for number in (6, 7, 6)]
    verdict.demand(
        steps == list(range(steps[0], steps[0] + 3)),
        f"a step, another, and the first again were steps {steps}",
    )


def _parallel_rollouts(service: Service, tuned: Tuned, verdict: Verdict) -> None:
    before = service.visits()["worker", "rollouts.begin"]
    answers: list[str] = []
    lock = threading.Lock()

    def ask() -> None:
        answer = tuned.rollouts(4, max_objects=3, max_tokens=12)
        with lock:
            answers.append(json.dumps(answer["rollouts"], sort_keys=True))

    with crew() as clients:
        for _ in range(NUM_PARALLEL):
            clients.start(ask)
    executions = service.visits()["worker", "rollouts.begin"] - before
    verdict.violations += [f"rollouts in parallel: {error!r}" for error in clients.errors]
    verdict.demand(
        executions == NUM_PARALLEL, f"{NUM_PARALLEL} equal rollouts: {executions} executions"
    )
    most = max(Counter(answers).values(), default=0)
    verdict.demand(most == 1, f"of {NUM_PARALLEL} equal rollouts {most} gave the same samples")
    verdict.figures["parallel_rollouts"] = len(set(answers))


def _orphan(service: Service, tuned: Tuned, verdict: Verdict) -> None:
    """Rollouts whose caller went for good end soon after the time they may linger."""
    body = json.dumps(
        {"finetune_id": tuned.id, "num_rollouts": 16, "request": question(1)}
    ).encode()
    head = (
        f"POST /v1/tuning/rollouts HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n"
        f"X-Moondream-Auth: k\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port)) as orphan:
        orphan.sendall(head.encode() + body)
        until(lambda: _running(service) == 1, "the orphan's rollouts are with the engine")
    left_at = time.monotonic()
    until(lambda: _running(service) == 0, "the orphan's rollouts have ended")
    seconds = time.monotonic() - left_at
    verdict.demand(
        LINGER_SECONDS - 0.2 <= seconds <= LINGER_SECONDS + 1.0 + SLACK_SECONDS,
        f"an orphan was kept for {seconds:.1f} s, wanted are {LINGER_SECONDS:g} to"
        f" {LINGER_SECONDS + 1:g}",
    )
    verdict.figures["orphan_seconds"] = seconds


def _running(service: Service) -> int:
    """Rollouts calls that the engine has, as /metrics says."""
    return service.metric('moontune_calls_running{work_class="rollouts"}')
