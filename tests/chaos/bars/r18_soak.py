"""R18: eight clients for a while: nothing fails, nothing is lost, nothing grows.

The calls are those of a training script and of who uses what it saved: rollouts, steps, saves,
metrics, lists, answers, exports, deletions. The worker keeps adapters, prompts and pictures as long
as there is room for them (its budgets are gigabytes); what it says that it keeps is no growth.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.chaos.bench import Bench, Verdict, crew, new_run
from tests.chaos.load import Load
from tests.chaos.sdk import Patience, patience
from tests.chaos.service import Service

ID = "R18"
TITLE = "a soak of eight clients"
NUM_CLIENTS = 8
MAX_GROWTH = 1.05
SLACK_BYTES = 24 << 20
"""Of processes of some 300 MB, in a run that is short: allocators settle late."""
MAX_MORE_FILES = 8
"""Descriptors, or threads: a connection of each client, a pool that fills."""

MAX_FILES_OF_FINETUNE = 10
"""Two states of two files, another one in writing, one that is about to be swept, an export."""

LOOK_SECONDS = 0.5


def run(bench: Bench) -> Verdict:
    seconds = bench.count(commit=30, full=600)
    with bench.service("r18") as service, patience(Patience()):
        service.start()
        history, _ = new_run(service)
        with crew() as clients:
            load = Load(history=history, tuning=service.tuning, crew=clients, has_all_calls=True)
            for number in range(NUM_CLIENTS):
                load.add(f"soak-{number}")
            time.sleep(seconds / 3)  # the time is the bar: this much of it is warm-up
            warm = _look(service)
            end = time.monotonic() + seconds * 2 / 3
            most = dict(warm)
            while time.monotonic() < end:
                time.sleep(LOOK_SECONDS)
                most = {name: max(most[name], value) for name, value in _look(service).items()}
        refused = _server_errors(service)
        verdict = bench.check(service, history)
        bad = [event for event in service.log_events() if event.get("level") == "error"]
    verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
    verdict.demand(not refused, f"answered with 5xx: {refused}")
    verdict.demand(
        most["files_not_saved"] <= NUM_CLIENTS * MAX_FILES_OF_FINETUNE,
        f"{most['files_not_saved']} files of {NUM_CLIENTS} finetunes besides what they saved",
    )
    verdict.demand(not bad, f"{len(bad)} errors in the log, the first: {bad[:1]}")
    for name in ("api_bytes", "worker_bytes_beside_caches"):
        bound = warm[name] * MAX_GROWTH + (0 if bench.is_full else SLACK_BYTES)
        verdict.demand(most[name] <= bound, f"{name} grew from {warm[name]:,} to {most[name]:,}")
    for name in ("api_fds", "worker_fds", "api_threads", "worker_threads"):
        verdict.demand(
            most[name] <= warm[name] + MAX_MORE_FILES,
            f"{name} grew from {warm[name]} to {most[name]}",
        )
    verdict.figures |= {"clients": NUM_CLIENTS, "soak_seconds": seconds} | {
        f"{name}_warm_and_most": f"{warm[name]:,} / {most[name]:,}" for name in warm
    }
    return verdict


def _look(service: Service) -> dict[str, int]:
    """Memory, descriptors and threads of both processes, and the files of the data directory."""
    looked: dict[str, int] = {}
    for name, pid in (("api", service.api.pid), ("worker", service.worker().pid)):
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        looked[f"{name}_bytes"] = int(status["VmRSS"].split()[0]) << 10
        looked[f"{name}_threads"] = int(status["Threads"])
        looked[f"{name}_fds"] = len(os.listdir(f"/proc/{pid}/fd"))
    cached = sum(
        float(line.split()[-1])
        for line in service.metrics_text().splitlines()
        if line.startswith("moontune_cache_bytes{")
    )
    looked["worker_bytes_beside_caches"] = looked["worker_bytes"] - int(cached)
    num_files = sum(1 for path in (service.data_dir / "finetunes").rglob("*") if path.is_file())
    with service.database() as database:
        ((num_saved,),) = database.execute(
            "SELECT count(*) + count(exchange_path) FROM checkpoints WHERE deleted_at_ms IS NULL"
        ).fetchall()
    looked["files_not_saved"] = max(0, num_files - num_saved)
    return looked


def _server_errors(service: Service) -> list[str]:
    """The series of /metrics that count answers from 500 up."""
    return [
        line
        for line in service.metrics_text().splitlines()
        if line.startswith("moontune_http_requests_total{") and 'status="5' in line
    ]
