"""Wall time, for stamps only; waits and leases use monotonic time.

Nothing else asks for the time of day: it jumps, and nobody may depend on it but readers of stamps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

NowMs = Callable[[], int]


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


def now_seconds() -> float:
    """Seconds since 1970 UTC."""
    return time.time()


def timestamp() -> str:
    """The present second for people, such as 2026-11-29T05:00:00+00:00."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def utc_text(at_ms: int) -> str:
    """A stamp as batches and adapters show it, such as 2026-11-29T05:00:00Z.

    >>> utc_text(1736937000000)
    '2025-01-15T10:30:00Z'
    """
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def file_stamp() -> str:
    """The present second for names of files, such as 20261129T050000Z."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
