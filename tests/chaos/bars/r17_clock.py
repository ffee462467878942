"""R17: the clock jumps by a day, forwards and backwards, while clients work; nobody notices.

The server and its worker run under libfaketime (Debian's package `faketime`), which moves the time
of day and leaves the monotonic clock alone.
"""

from __future__ import annotations

import itertools
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
from tests.chaos.bench import Bench, Crew, Verdict, crew
from tests.chaos.history import History
from tests.chaos.sdk import Client, Patience, patience, rl, sft

ID = "R17"
TITLE = "the clock jumps by a day"
LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")
JUMPS = ("+1d", "+0", "-1d", "+0", "+2d", "-2d")
CREATE_EVERY = 3
MIN_JUMPS = 24
JUMP_SECONDS = 5.0
MIN_CREATED = 4
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
    verdict = Verdict()
    with _Server(bench, folder, library, clock) as server, patience(Patience()):
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
                time.sleep(JUMP_SECONDS)
        verdict.violations += [f"a client gave up: {error!r}" for error in clients.errors]
        _look(server.url, created, verdict)
    num_back = _backward_stamps(folder / "data" / DATABASE_FILE)
    if not num_back:
        verdict.violations.append("no stamp went back, so the clock never jumped")
    verdict.figures = {
        "jumps": num_jumps,
        "steps": len([call for call in history.calls if call.verb == "train_step"]),
        "finetunes": len(created),
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


def _look(url: str, created: list[str], verdict: Verdict) -> None:
    """The list is in the order of what happened."""
    rows = []
    parameters = {"limit": "100"}
    while True:
        page = httpx.get(f"{url}/v1/tuning/finetunes", params=parameters, timeout=10).json()
        rows += page["finetunes"]
        if not page.get("has_more"):
            break
        parameters["cursor"] = page["next_cursor"]
    if [row["finetune_id"] for row in rows] != created:
        verdict.violations.append("the list of finetunes is not in the order of their creation")


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

    def __init__(self, bench: Bench, folder: Path, library: Path, clock: Path):
        environment = {
            **module_environment(),
            "OMP_NUM_THREADS": "1",
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        words = ["--model", str(bench.forge.model), "--port", "0", "--device", "cpu"]
        with (folder / "api.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server", *words, "--data-dir", str(folder / "data")],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        assert self._process.stdout is not None
        url = read_url(self._process.stdout.readline())
        assert url, f"the server did not start, see {folder}"
        self.url = url

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(60.0)
        assert self._process.stdout is not None
        self._process.stdout.close()
