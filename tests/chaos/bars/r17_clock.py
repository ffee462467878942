"""R17: the clock jumps by a day, forwards and backwards, while clients work; nobody notices.

The server and its worker run under libfaketime (Debian's package `faketime`), which moves the time
of day and leaves the monotonic clock alone. Now and then the worker is killed, or the server is
stopped and started, in whatever time it is then; at the end the one judge looks at everything.
"""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import httpx

from server.children import module_environment
from server.config import DATABASE_FILE
from server.ready import read_url
from tests.chaos.bench import SEED, Bench, Crew, Verdict, crew
from tests.chaos.history import History
from tests.chaos.sdk import Client, Patience, patience, rl, sft

ID = "R17"
TITLE = "the clock jumps by a day"
LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")
JUMPS = ("+1d", "+0", "-1d", "+0", "+2d", "-2d")
CREATE_EVERY = 3
MIN_JUMPS = 24
JUMP_SECONDS = 5.0
KILL_AT, RESTART_AT = (4, 12, 20), (8, 16)
"""After so many jumps."""
MIN_CREATED = 4
ENDURING = Patience(base_delay=0.25, max_delay=8.0)
"""A cold start of the server takes seconds, in which it refuses connections."""

MAX_SECONDS = 240.0


def run(bench: Bench) -> Verdict:
    if not bench.is_full:
        return Verdict(skipped=["a clock that jumps: full tier only; tests/api has a small one"])
    library = next(iter(_libraries()), None)
    if library is None:
        return Verdict(skipped=["a clock that jumps: Debian's package faketime is not installed"])
    folder = bench.forge.new_folder("r17")
    folder.mkdir(parents=True)
    clock = folder / "clock"
    clock.write_text(JUMPS[-1])
    history = History()
    judged = bench.service("r17-judged", data_dir=folder / "data")
    with _Server(bench, folder, library, clock, judged.port) as server, patience(ENDURING):
        client = Client(history, f"{server.url}/v1/tuning")
        created: list[str] = []
        with crew() as clients:
            clients.start(lambda: _train(client, created, clients))
            jumps = itertools.cycle(JUMPS)
            num_jumps = 0
            end = time.monotonic() + MAX_SECONDS
            while not clients.errors and time.monotonic() < end:
                if num_jumps >= MIN_JUMPS and len(created) >= MIN_CREATED:
                    break
                clock.write_text(next(jumps))
                num_jumps += 1
                if num_jumps in KILL_AT:
                    server.kill_worker()
                if num_jumps in RESTART_AT:
                    server.restart()
                time.sleep(JUMP_SECONDS)
        in_order = _is_in_order(server.url, created)
    with judged:
        verdict = bench.check(judged, history)
    verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
    verdict.demand(in_order, "the list of finetunes is not in the order of their creation")
    num_back = _backward_stamps(folder / "data" / DATABASE_FILE)
    if not num_back:
        verdict.violations.append("no stamp went back, so the clock never jumped")
    verdict.demand(len(created) >= MIN_CREATED, f"only {len(created)} finetunes were made")
    verdict.figures |= {
        "jumps": num_jumps,
        "workers_killed": len(KILL_AT),
        "restarts": len(RESTART_AT),
        "stamps_before_their_predecessor": num_back,
    }
    return verdict


def _train(client: Client, created: list[str], clients: Crew) -> None:
    for number in itertools.count():
        if clients.stop.is_set():
            return
        if number % CREATE_EVERY == 0:
            tuned = client.create(f"f{number}")
            created.append(tuned.id)
        answer = tuned.train([sft(number), rl(tuned.rollouts(number))])
        assert answer["step"] == number % CREATE_EVERY + 1, "a step was lost or doubled"
        tuned.save()


def _is_in_order(url: str, created: list[str]) -> bool:
    """Whether the list is in the order of what happened."""
    rows = []
    parameters = {"limit": "100"}
    while True:
        page = httpx.get(f"{url}/v1/tuning/finetunes", params=parameters, timeout=10).json()
        rows += page["finetunes"]
        if not page.get("has_more"):
            break
        parameters["cursor"] = page["next_cursor"]
    return [row["finetune_id"] for row in rows] == created


def _backward_stamps(path: Path) -> int:
    """How many steps have a stamp before that of the step before."""
    query = (
        "SELECT s.created_at_ms FROM train_steps s JOIN finetunes f ON f.id = s.finetune_id"
        " ORDER BY f.ordinal, s.step"
    )
    with closing(sqlite3.connect(path)) as database:
        stamps = [stamp for (stamp,) in database.execute(query)]
    return sum(later < earlier for earlier, later in itertools.pairwise(stamps))


def _libraries() -> list[Path]:
    paths = (Path(folder) / "libfaketimeMT.so.1" for folder in LIBRARIES)
    return [path for path in paths if path.exists()]


class _Server:
    """`python -m server` on the micro model, in a time that a file says."""

    def __init__(self, bench: Bench, folder: Path, library: Path, clock: Path, port: int):
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "api.log"
        words = ["--model", str(bench.forge.model), "--port", str(port), "--device", "cpu"]
        words += ["--data-dir", str(folder / "data")]
        self._command = [sys.executable, "-P", "-m", "server", *words]
        self._environment = {
            **module_environment(),
            "OMP_NUM_THREADS": "1",
            "MOONTUNE_SEED": str(SEED),
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self._process = self._started()

    def restart(self) -> None:
        """In order; calls that come meanwhile are sent again by the SDK."""
        self._end()
        self._process = self._started()

    def kill_worker(self) -> None:
        """SIGKILL."""
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self._process.pid)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        pid = next(int(line.split()[0]) for line in listed.splitlines() if "trainer" in line)
        os.kill(pid, signal.SIGKILL)

    def _started(self) -> subprocess.Popen[str]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, env=self._environment, text=True
            )
        assert process.stdout is not None
        assert read_url(process.stdout.readline()), f"the server did not start, see {self._log}"
        return process

    def _end(self) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(60.0)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
