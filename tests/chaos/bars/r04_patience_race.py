"""R4: the client's patience ends about when the answer comes, byte-identical bodies, no key.

Far worse than life, where the window is some 10 ms in a step of seconds. A wrong merge loses a
step and is as bad as a double one.
"""

from __future__ import annotations

import statistics
from collections import deque
from urllib.error import URLError

from tests.chaos.bench import Bench, Verdict, new_run
from tests.chaos.checker import check
from tests.chaos.load import BROKEN
from tests.chaos.proxy import Proxy
from tests.chaos.sdk import Client, Patience, Tuned, patience, set_patience, sft

ID = "R4"
TITLE = "the client's time-out races the answer"
CALM = Patience(base_delay=0.01, max_delay=0.03)
NUM_CALM = 20
MIN_SECONDS = 0.002


def run(bench: Bench) -> Verdict:
    verdict = _direct(bench)
    verdict.add(_with_expected_step(bench))
    return verdict


def _direct(bench: Bench) -> Verdict:
    num_calls = bench.count(commit=500, full=2000)
    with bench.service("r04") as service, patience(CALM):
        service.start()
        history, client = new_run(service)
        tuned = client.create("raced")
        usual = deque[float](maxlen=NUM_CALM)
        group = sft(0)
        for _ in range(NUM_CALM):
            tuned.train([group])
            usual.append(history.calls[-1].seconds)
        num_gave_up = 0
        for _ in range(num_calls):
            share = bench.random.uniform(0.6, 1.3)
            seconds = max(MIN_SECONDS, share * statistics.median(usual))
            set_patience(Patience(train=seconds, base_delay=0.01, max_delay=0.03))
            try:
                tuned.train([group], may_fail=True)
                if history.calls[-1].seconds < seconds:
                    usual.append(history.calls[-1].seconds)
            except (URLError, TimeoutError):  # eleven attempts: the script is started again
                num_gave_up += 1
                set_patience(CALM)
                tuned.train([group])
        set_patience(CALM)
        verdict = check(service, history, None)
        events = [event.get("event") for event in service.log_events()]
    _demand_equal(verdict)
    verdict.figures |= {
        "raced_calls": num_calls,
        "usual_ms": 1000 * statistics.median(usual),
        "attempts_joined": events.count("step_joined"),
        "answers_replayed": events.count("step_replayed"),
        "gave_up": num_gave_up,
    }
    return verdict


def _with_expected_step(bench: Bench) -> Verdict:
    """Through a proxy that drops and delays; `expected_step` is exact there, too."""
    num_calls = bench.count(commit=60, full=500)
    with bench.service("r04-proxy") as service, patience(CALM):
        service.start()
        history, client = new_run(service)
        tuned = client.create("behind-a-proxy")
        with Proxy(service.port, bench.random) as proxy:
            far = Client(history, f"http://127.0.0.1:{proxy.port}/v1/tuning", "behind-a-proxy")
            raced = far.take(history.created[tuned.id])
            set_patience(Patience(train=1.0, base_delay=0.01, max_delay=0.03))
            for step in range(num_calls):
                _until_answered(raced, step)
        verdict = check(service, history, None)
    _demand_equal(verdict)
    verdict.figures |= {
        "calls_through_proxy": num_calls,
        "proxied": dict(proxy.counts),
    }
    return verdict


def _until_answered(tuned: Tuned, step: int) -> None:
    """A script that is started again until it has the answer of its step."""
    for _ in range(100):
        try:
            answer = tuned.train([sft(0)], expected_step=step, may_fail=True)
        except (*BROKEN, URLError, TimeoutError):
            continue
        assert answer["step"] == step + 1, f"asked for step {step + 1}, got {answer['step']}"
        return
    raise AssertionError(f"step {step + 1} was not answered in 100 calls")


def _demand_equal(verdict: Verdict) -> None:
    applied, answered = verdict.figures["applied"], verdict.figures["answered"]
    verdict.demand(applied == answered, f"{applied} steps applied, {answered} answered")
