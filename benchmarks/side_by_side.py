"""How two sides are compared in one run: rounds, CPU seconds, memory, and the JSON line.

Runs alternate between the sides, medians count. Memory is measured in a process of its own per
side, as what was freed before would otherwise count as taken already.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Clocked = Callable[[], float]
"""Does something once and returns its CPU seconds."""


def clocked(work: Callable[[], Any]) -> Clocked:
    """All of what a call takes."""

    def run() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return run


def alternating(
    works: Mapping[str, Clocked], num_runs: int, *, warm_up: Iterable[str] | None = None
) -> dict[str, list[float]]:
    """CPU seconds of each, one run of each after the other.

    Args:
        warm_up: What runs once before, where the others share its code; absent: everything.
    """
    for name in works if warm_up is None else warm_up:
        works[name]()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(num_runs):
        for name, work in works.items():
            seconds[name].append(work())
    return seconds


def tell(name: str, theirs: Sequence[float], ours: Sequence[float], **more: Any) -> None:
    """One comparison; `spread` is the lowest and the highest ratio of a round."""
    found = {
        "name": name,
        "ratio": statistics.median(theirs) / statistics.median(ours),
        "runs": len(ours),
        "spread": spread(theirs, ours),
        "cpu_seconds": {"ours": statistics.median(ours), "theirs": statistics.median(theirs)},
        **more,
    }
    print(json.dumps(found), flush=True)


def spread(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """The lowest and the highest ratio of a round."""
    rounds = [their / our for their, our in zip(theirs, ours, strict=True)]
    return [min(rounds), max(rounds)]


def in_a_process(module: str, *arguments: str) -> dict[str, Any]:
    """The last JSON line of `python -m module arguments`."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def most_memory(work: Callable[[], Any]) -> float:
    """MiB of anonymous memory that one call takes at most, beyond what is taken before it."""
    before, highest, running = _resident_mib(), 0.0, True

    def watch() -> None:
        nonlocal highest
        while running:
            highest = max(highest, _resident_mib())
            time.sleep(0.001)

    watching = threading.Thread(target=watch)
    watching.start()
    work()
    running = False
    watching.join()
    return highest - before


def _resident_mib() -> float:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    raise OSError("this system does not say what is resident")
