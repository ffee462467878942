"""A real `moontune serve` of the benchmark's checkpoint, and what its processes use.

Options of the server are its defaults; `MOONTUNE_...` of the caller's environment are left out.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.live import LiveServer

NOT_FOUND = 404


@contextmanager
def served(checkpoint: Path, data_dir: Path, *, seed: int) -> Iterator[ServedModel]:
    """A server in a new data directory, one torch thread, float32; stopped at the end."""
    # The model comes after the one that LiveServer names, and the last one counts.
    options = ("--model", str(checkpoint), "--dtype", "float32", "--seed", str(seed))
    with LiveServer(data_dir, *options) as live:
        yield ServedModel(live)


@dataclass(frozen=True, kw_only=True)
class Used:
    """Seconds of the wall clock, and CPU seconds of each process."""

    wall: float
    worker: float
    api: float
    client: float

    def __sub__(self, before: Used) -> Used:
        return Used(**{name: value - getattr(before, name) for name, value in vars(self).items()})


class ServedModel:
    """The server while it runs."""

    def __init__(self, live: LiveServer):
        self._live = live
        self.tuning = live.tuning
        self._worker_pid = _worker_of(live.pid)

    def used(self) -> Used:
        """So far; `client` is this process."""
        return Used(
            wall=time.perf_counter(),
            worker=_cpu_seconds(self._worker_pid),
            api=_cpu_seconds(self._live.pid),
            client=time.process_time(),
        )

    def counter(self, name: str, label: str) -> float | None:
        """The sum of a counter's series with this label; None where it is not reported."""
        answer = self._live.get("/metrics")
        if answer.status_code == NOT_FOUND:
            return None
        answer.raise_for_status()
        return sum_of(answer.text, name, label)


def sum_of(text: str, name: str, label: str) -> float | None:
    """From Prometheus text: `name{..., label, ...} value`, summed; None where there is none."""
    lines = re.findall(rf"^{re.escape(name)}\{{(.*)\}} (\S+)", text, flags=re.MULTILINE)
    values = [float(value) for labels, value in lines if label in labels.split(",")]
    return sum(values) if values else None


def _worker_of(api_pid: int) -> int:
    """The child of the API process that runs the trainer."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int(_stat(int(entry.name))[1])
        except OSError:  # It ended meanwhile.
            continue
        if parent == api_pid and b"trainer" in words:
            return int(entry.name)
    raise RuntimeError(f"process {api_pid} has no worker")


def _cpu_seconds(pid: int) -> float:
    """In user and system mode, of all threads, in hundredths."""
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold blanks: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
