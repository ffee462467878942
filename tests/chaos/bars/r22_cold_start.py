"""R22: a cold start takes import and load, and a slow load fails no call.

The cold start is the production one: `python -m server`, which starts `python -m trainer`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from server.children import CODE_ROOT, module_command, module_environment
from server.ready import read_url
from tests.chaos.bench import Bench, Verdict, crew, new_run
from tests.chaos.checker import check
from tests.chaos.history import History
from tests.chaos.sdk import Client, Patience, patience, rl, sft
from tests.chaos.waiting import until

ID = "R22"
TITLE = "cold starts and slow loads"
IS_ALONE = True
SCALE = 30.0
"""A load of 45 s, the SDK's 60 s and the server's 45 s are divided by it."""
LOAD_SECONDS = 45.0
ALLOWED_SECONDS = 2.0
SCALED = Patience(
    request=60.0 / SCALE, train=900.0 / SCALE, base_delay=0.5 / SCALE, max_delay=30.0 / SCALE
)
SCALED_SERVER = {
    "rollouts_queue_seconds": 45.0 / SCALE,
    "rollouts_answer_seconds": 55.0 / SCALE,
    "train_queue_seconds": 600.0 / SCALE,
}


def run(bench: Bench) -> Verdict:
    verdict = _cold_start(bench)
    verdict.add(_slow_load(bench))
    return verdict


def _cold_start(bench: Bench) -> Verdict:
    """From nothing to the first answer, and from a kill to the answer of the call it met."""
    verdict = Verdict()
    folder = bench.forge.new_folder("r22-cold")
    folder.mkdir(parents=True)
    started = time.monotonic()
    with _Cold(bench.forge.model, folder) as cold, patience(Patience()):
        history = History()
        client = Client(history, f"{cold.url}/v1/tuning")
        tuned = client.create("cold")
        tuned.train([sft(0)])
        start_seconds = time.monotonic() - started
        with crew() as clients:
            os.kill(cold.worker(), signal.SIGKILL)
            killed_at = time.monotonic()
            clients.start(lambda: tuned.train([sft(1)]))
        back_seconds = time.monotonic() - killed_at
    verdict.violations += history.unexpected_errors()
    verdict.figures |= {
        "first_answer_seconds": start_seconds,
        "answer_after_kill_seconds": back_seconds,
    }
    if bench.is_full:
        load_seconds = _load_seconds(bench.forge.model)
        allowed = load_seconds + ALLOWED_SECONDS
        verdict.figures["import_and_load_seconds"] = load_seconds
        for what, seconds in (("the first answer", start_seconds), ("after a kill", back_seconds)):
            verdict.demand(
                seconds <= allowed, f"{what}: {seconds:.1f} s, wanted is {allowed:.1f} s"
            )
    return verdict


def _slow_load(bench: Bench) -> Verdict:
    """Each life loads for 45 s, scaled; calls are made all the while and workers killed."""
    num_kills = bench.count(commit=2, full=8)
    load_ms = round(1000 * LOAD_SECONDS / SCALE)
    with bench.service("r22-slow", options=SCALED_SERVER) as service, patience(SCALED):
        service.start(fault=f"worker.load=slow:{load_ms}!", ready=False)
        service.until_healthy()
        history, client = new_run(service)
        with crew() as clients:
            clients.start(lambda: _work(client, clients.stop))
            for _ in range(num_kills):
                until(lambda: service.get("/readyz")[0] == 200, "the model is loaded")
                _until_next_call(history)
                service.worker().kill()
                until(lambda: service.get("/readyz")[0] != 200, "the worker's death is known")
            until(lambda: service.get("/readyz")[0] == 200, "the model is loaded")
        verdict = check(service, history, bench.undisturbed)
    verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
    verdict.figures |= {"slow_loads": num_kills + 1, "load_seconds_scaled": load_ms / 1000}
    return verdict


def _until_next_call(history: History) -> None:
    before = len(history.calls)
    until(lambda: len(history.calls) > before, "a call is made")


def _work(client: Client, stop: threading.Event) -> None:
    tuned = client.create("patient")
    number = 0
    while not stop.is_set():
        tuned.train([sft(number), rl(tuned.rollouts(number))])
        number += 1


def _load_seconds(model: Path) -> float:
    """What a process takes that imports the trainer, loads the model and warms it up."""
    code = (
        "from pathlib import Path; import trainer.process;"
        "from trainer.canary import sing; from trainer.engine import TrainerEngine;"
        "from trainer.loading import load;"
        f"sing(TrainerEngine(load(Path({str(model)!r}), name='m', device='cpu', dtype='auto')))"
    )
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=CODE_ROOT,
        env={**module_environment(), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return time.monotonic() - started


class _Cold:
    """`python -m server` on the micro model."""

    def __init__(self, model: Path, folder: Path):
        words = ["--model", str(model), "--data-dir", str(folder / "data")]
        words += ["--port", "0", "--device", "cpu"]
        with (folder / "api.log").open("ab") as log:
            self._process = subprocess.Popen(
                module_command("server", *words),
                stdout=subprocess.PIPE,
                stderr=log,
                env={**module_environment(), "OMP_NUM_THREADS": "1"},
                text=True,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        url = read_url(line)
        assert url, f"the server says {line!r}, see {folder}"
        self.url = url

    def worker(self) -> int:
        """The process id of its worker."""
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self._process.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return next(int(line.split()[0]) for line in listed.splitlines() if "trainer" in line)

    def __enter__(self) -> _Cold:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60.0)
        assert self._process.stdout is not None
        self._process.stdout.close()
