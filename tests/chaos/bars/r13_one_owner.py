"""R13: eight servers start at once on one data directory; one serves, seven say who does.

The winner is killed, so the next round begins with its lock file and nobody's help. Then a copy of
the directory is refused while the original is served.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.bench import Bench, Verdict
from tests.chaos.service import Service
from tests.chaos.waiting import until

ID = "R13"
TITLE = "eight servers start on one data directory"
IS_ALONE = True
NUM_SERVERS = 8
REFUSED_SECONDS = 2.0
_NAMES = re.compile(r"process (?P<pid>\d+) on (?P<host>\S+), started \d{4}-\d\d-\d\dT[\d:+]+")


def run(bench: Bench) -> Verdict:
    verdict = Verdict()
    num_rounds = bench.count(commit=8, full=100)
    slowest = 0.0
    with ExitStack() as services:
        first = services.enter_context(bench.service("r13-0"))
        first.start()  # migrates
        first.kill()
        crowd = [first] + [
            services.enter_context(bench.service(f"r13-{number}", data_dir=first.data_dir))
            for number in range(1, NUM_SERVERS)
        ]
        for number in range(num_rounds):
            slowest = max(slowest, _race(crowd, number, verdict))
        _copy_beside(bench, first, verdict)
    verdict.figures |= {
        "rounds": num_rounds,
        "servers_each": NUM_SERVERS,
        "slowest_refusal_seconds": slowest,
    }
    return verdict


def _race(crowd: list[Service], number: int, verdict: Verdict) -> float:
    """One round; returns how long the slowest refusal took."""
    for service in crowd:
        service.log_path.write_text("")
    began = time.monotonic()
    for service in crowd:
        service.start(ready=False)
    until(
        lambda: sum(service.is_running for service in crowd) <= 1,
        f"in round {number} all but one have ended",
        seconds=30,
    )
    seconds = time.monotonic() - began
    served = [service for service in crowd if service.is_running]
    for service in crowd:
        if service not in served:
            _check_refusal(service, served, number, verdict)
    if len(served) != 1:
        verdict.violations.append(f"round {number}: {len(served)} serve, not 1")
    else:
        served[0].until_healthy()
    if seconds > REFUSED_SECONDS:
        verdict.violations.append(f"round {number}: the refusals took {seconds:.1f} s")
    for service in served:
        service.kill()
    return seconds


def _check_refusal(service: Service, served: list[Service], number: int, verdict: Verdict) -> None:
    status = service.api.wait()
    said = service.last_log()
    names = _NAMES.search(said)
    if status == 0 or status == -signal.SIGSEGV:
        verdict.violations.append(f"round {number}: a refused server ended with {status}")
    if names is None or names["host"] != socket.gethostname():
        verdict.violations.append(f"round {number}: no holder is named: {said}")
    elif served and int(names["pid"]) != served[0].api.pid:
        verdict.violations.append(
            f"round {number}: process {names['pid']} is named, {served[0].api.pid} serves"
        )


def _copy_beside(bench: Bench, original: Service, verdict: Verdict) -> None:
    """A copy is refused while its original is served, and served once it is not."""
    copied = Path(f"{original.data_dir}-copy")
    original.start()
    shutil.copytree(original.data_dir, copied)
    with bench.service("r13-copy", data_dir=copied) as copy:
        copy.start(ready=False)
        until(lambda: not copy.is_running, "the copy is refused")
        if "is a copy of" not in copy.last_log():
            verdict.violations.append(f"the copy was not refused: {copy.last_log()}")
        original.kill()
        copy.start()
        copy.kill()
    verdict.figures["copies_refused"] = 1
