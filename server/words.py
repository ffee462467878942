"""How sizes and paths are spelled for people."""

from __future__ import annotations

import shlex
from pathlib import Path


def readable_bytes(num_bytes: float) -> str:
    """Such as `18.5 GB`, `629.0 MB` or `12 bytes`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} bytes"


def quoted(path: Path) -> str:
    """A path for a command to paste."""
    return shlex.quote(str(path))
