"""Times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def readable_time(at_ms: int) -> str:
    """Milliseconds since 1970 UTC, to the second: `2026-11-29 05:00:00Z`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
