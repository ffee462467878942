"""Wall time, for stamps only; waits and leases use monotonic time."""

from __future__ import annotations

import time
from collections.abc import Callable

NowMs = Callable[[], int]


def now_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
