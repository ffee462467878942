"""R19: 64 clients with bodies of 20 MB at once; held first, then served or refused in time.

Then once more where there is hardly any room and little patience, beside clients of the SDK: some
are refused, each with its reason, and the SDK comes through by asking again.

In the commit tier memory is bounded and every call ends in success or an honest 503; how quickly
/healthz and the event loop answer meanwhile is judged in the full tier, the flood and the worker
being of the lowest priority.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from typing import Any

from server.children import CODE_ROOT
from tests.chaos.bench import Bench, Verdict, crew, new_run
from tests.chaos.flood import LOWEST_PRIORITY, NUM_BODY_BYTES, NUM_CLIENTS
from tests.chaos.load import Load
from tests.chaos.sdk import Patience, patience
from tests.chaos.watching import Probe, quantile

ID = "R19"
TITLE = "64 clients with bodies of 20 MB: success or an honest 503, memory bounded"
IS_ALONE = True

MAX_MEMORY_BYTES = 1 << 30
MAX_HEALTHZ_SECONDS = 0.1
MAX_LAG_SECONDS = 0.05
PATIENCE_SECONDS = {"/v1/tuning/rollouts": 60.0, "/v1/tuning/train_step": 900.0}
"""Of the SDK, without a byte."""

NUM_FINETUNES = 8
HONEST = re.compile(r"place \d+ of \d+|of \d+ bytes")
"""A refusal names the place in the queue, or what there is too little of."""


NARROW_SERVER = {
    "max_queued_bytes": 200_000_000,
    "rollouts_queue_seconds": 2.0,
    "train_queue_seconds": 4.0,
}
NARROW_SLACK_SECONDS = 3.0
"""Of a busy machine, from the end of a wait to the first byte of the refusal."""

MIN_REFUSED = 10
NUM_SDK_CLIENTS = 2


def run(bench: Bench) -> Verdict:
    verdict = _ample(bench)
    verdict.add(_narrow(bench))
    return verdict


def _narrow(bench: Bench) -> Verdict:
    """A queue that is full."""
    verdict = Verdict()
    with bench.service("r19-narrow", options=NARROW_SERVER) as service, patience(Patience()):
        service.start()
        history, client = new_run(service)
        finetunes = [client.create(f"flooded-{index}").id for index in range(NUM_FINETUNES)]
        os.setpriority(os.PRIO_PROCESS, service.worker().pid, LOWEST_PRIORITY)
        with Probe(service.port, service.api.pid) as probe, crew() as clients:
            load = Load(history=history, tuning=service.tuning, crew=clients)
            for number in range(NUM_SDK_CLIENTS):
                load.add(f"sdk-{number}")
            outcomes = _flood(service.port, finetunes, rounds=bench.count(commit=1, full=3))
            peak_bytes = probe.peak_bytes()
    verdict.violations += [f"an SDK client gave up: {error!r}" for error in clients.errors]
    statuses = Counter(outcome["status"] for outcome in outcomes)
    for outcome in outcomes:
        _judge(verdict, outcome)
        waits = "rollouts" if outcome["path"].endswith("rollouts") else "train"
        limit = NARROW_SERVER[f"{waits}_queue_seconds"] + NARROW_SLACK_SECONDS
        is_late = outcome["status"] == 503 and outcome["silent_seconds"] > limit
        verdict.demand(not is_late, f"refused after {outcome['silent_seconds']:.1f} s of silence")
    verdict.demand(statuses[503] >= MIN_REFUSED, f"only {statuses[503]} calls were refused")
    verdict.demand(statuses[200] > 0, "no call of the flood was served")
    verdict.demand(peak_bytes <= MAX_MEMORY_BYTES, f"the API had {peak_bytes} bytes")
    verdict.demand(probe.num_failed == 0, f"{probe.num_failed} of /healthz failed")
    verdict.figures |= {
        "full_queue_statuses": {str(status): n for status, n in sorted(statuses.items())},
        "full_queue_sdk_calls": len(history.calls),
    }
    return verdict


def _ample(bench: Bench) -> Verdict:
    """Everybody is served."""
    verdict = Verdict()
    with bench.service("r19") as service:
        service.start()
        _, client = new_run(service)
        finetunes = [client.create(f"flooded-{index}").id for index in range(NUM_FINETUNES)]
        os.setpriority(os.PRIO_PROCESS, service.worker().pid, LOWEST_PRIORITY)
        within_before, num_before = _loop_looks(service)
        with Probe(service.port, service.api.pid) as probe:
            outcomes = _flood(service.port, finetunes, rounds=bench.count(commit=1, full=4))
        peak_bytes = probe.peak_bytes()
        within, num_looks = _loop_looks(service)
        within, num_looks = within - within_before, num_looks - num_before
    statuses = Counter(outcome["status"] for outcome in outcomes)
    for outcome in outcomes:
        _judge(verdict, outcome)
    verdict.demand(
        peak_bytes <= MAX_MEMORY_BYTES, f"the API had {peak_bytes} bytes, {MAX_MEMORY_BYTES} may be"
    )
    verdict.demand(probe.num_failed == 0, f"{probe.num_failed} of /healthz failed")
    verdict.demand(len(outcomes) == _num_calls(bench), f"{len(outcomes)} calls ended")
    healthz = quantile(probe.latencies, 0.99)
    if bench.is_full:
        verdict.demand(healthz <= MAX_HEALTHZ_SECONDS, f"p99 of /healthz {healthz:.3f} s")
        verdict.demand(
            within >= 0.99 * num_looks,
            f"the loop was late in {num_looks - within:g} of {num_looks:g} looks",
        )
    verdict.figures |= {
        "calls": len(outcomes),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "peak_memory_mb": round(peak_bytes / 1e6),
        "healthz_p99_ms": 1000 * healthz,
        "loop_looks": int(num_looks),
        "loop_looks_within_50_ms": int(within),
        "longest_silence_s": max((o["silent_seconds"] for o in outcomes), default=0.0),
    }
    return verdict


def _num_calls(bench: Bench) -> int:
    return NUM_CLIENTS * bench.count(commit=1, full=4)


def _flood(port: int, finetune_ids: list[str], *, rounds: int) -> list[dict[str, Any]]:
    words = [str(port), *finetune_ids, "--clients", str(NUM_CLIENTS), "--rounds", str(rounds)]
    words += ["--body-bytes", str(NUM_BODY_BYTES)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.flood", *words],
        cwd=CODE_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _judge(verdict: Verdict, outcome: dict[str, Any]) -> None:
    path, status = outcome["path"], outcome["status"]
    verdict.demand(status in (200, 503), f"{path}: {status} {outcome['message']}")
    silent = outcome["silent_seconds"]
    verdict.demand(silent <= PATIENCE_SECONDS[path], f"{path}: {silent:.1f} s without a byte")
    if status == 503:
        is_honest = bool(HONEST.search(outcome["message"]) and outcome["retry_after"])
        verdict.demand(is_honest, f"{path}: a refusal without reason: {outcome['message']}")


def _loop_looks(service: Any) -> tuple[float, float]:
    """How often the lag of the event loop was looked at, and how often it was within its bound."""
    name = "moontune_loop_lag_seconds"
    within = service.metric(f'{name}_bucket{{le="{MAX_LAG_SECONDS}"}}')
    return within, service.metric(f"{name}_count")
