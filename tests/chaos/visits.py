"""Which fault points a run of the system visits, from the points themselves.

While something harmless is armed, every visit asks what is due. In the mains of these tests that
question is written down first, one name a line, so that a sweep knows which points an operation has
instead of guessing.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from contract import faults

VARIABLE = "CHAOS_VISITS"
"""Names the file; not set: nothing is written."""

HARMLESS = "worker.start=slow:0!"


def write_if_asked(process: str) -> None:
    """Write down the visits of this process, if the environment names a file.

    Args:
        process: `api` or `worker`.
    """
    path = os.environ.get(VARIABLE)
    if path:
        _write_to(Path(path), process)


def read(path: Path) -> Counter[tuple[str, str]]:
    """How often each process visited each point since the file was made."""
    lines = path.read_text().splitlines() if path.exists() else []
    words = (line.split() for line in lines)
    return Counter((process, name) for process, name in words)


def _write_to(path: Path, process: str) -> None:
    due = faults._due  # what `faults.point` and `faults.spoiled` ask

    def written(name: str):
        with path.open("a") as file:
            file.write(f"{process} {name}\n")
        return due(name)

    faults._due = written
