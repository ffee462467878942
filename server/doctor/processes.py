"""A check of other processes: workers whose server is gone and which hold on to the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contract.findings import Finding, fault, ok
from server.doctor.machine import Machine

_SERVER_WORDS = frozenset({"serve", "server"})
"""As in `moontune serve` and `python -m server`."""


def check_orphans(machine: Machine) -> Finding:
    """Whether a worker runs that no server started, or whose server has ended."""
    orphans = [pid for pid in _workers(machine.proc) if not _has_server(machine.proc, pid)]
    if not orphans:
        return ok("orphans", "No worker is left over.")
    pids = " ".join(map(str, orphans))
    return fault(
        "orphans",
        f"A worker whose server has ended still runs and holds its memory: process {pids}.",
        f"kill -9 {pids}",
    )


def is_worker(words: list[str]) -> bool:
    """Whether a command line is that of a worker: `python -m trainer --fd N --epoch N ...`."""
    return "trainer" in words and "--fd" in words and "--epoch" in words


def _workers(proc: Path) -> Iterator[int]:
    for folder in sorted(proc.glob("[0-9]*")):
        if is_worker(_words(folder)):
            yield int(folder.name)


def _has_server(proc: Path, pid: int) -> bool:
    """Whether its parent is one of ours; an orphan was given to another, usually process 1."""
    try:
        status = (proc / str(pid) / "stat").read_text()
        parent = int(status.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return True  # it ended just now
    return not _SERVER_WORDS.isdisjoint(_words(proc / str(parent)))


def _words(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
