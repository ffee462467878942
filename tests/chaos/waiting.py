"""Waiting for what can be seen, with a bound; nothing here sleeps for a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.002
PATIENCE_SECONDS = 60.0
"""Far above what anything takes on a busy machine."""


def until(see: Callable[[], T | None], what: str, *, seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true thing that `see` returns.

    Raises:
        AssertionError: It did not come in time; the message says what was waited for.
    """
    end = time.monotonic() + seconds
    while not (seen := see()):
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds:g} s still waiting until {what}")
        time.sleep(POLL_SECONDS)
    return seen
