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


def write_if_asked() -> None:
    """Write down the visits of this process, if the environment names a file."""
    path = os.environ.get(VARIABLE)
    if path:
        _write_to(Path(path))


def read(path: Path) -> Counter[str]:
    """How often each point was visited since the file was made."""
    return Counter(path.read_text().split()) if path.exists() else Counter()


def _write_to(path: Path) -> None:
    due = faults._due  # what `faults.point` and `faults.spoiled` ask

    def written(name: str):
        with path.open("a") as file:
            file.write(f"{name}\n")
        return due(name)

    faults._due = written
