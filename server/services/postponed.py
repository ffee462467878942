"""Sweeps that could not remove anything, because somebody reads everything: tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

RETRY_SECONDS = 60.0


class Postponed:
    """Names of what has to be swept again.

    Args:
        sweep_soon: Begins to sweep one of them, without waiting.
        seconds: After which a sweep is tried again, though nothing tells that it will succeed.
    """

    def __init__(self, sweep_soon: Callable[[str], None], *, seconds: float = RETRY_SECONDS):
        self._sweep_soon = sweep_soon
        self._seconds = seconds
        self._names: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, name: str) -> None:
        """This one could not be swept."""
        self._names.add(name)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self.sweep)

    def sweep(self) -> None:
        """Begin to sweep all of them; those that still cannot be are added again."""
        names = self._names
        self.close()
        for name in names:
            self._sweep_soon(name)

    def close(self) -> None:
        """Forget them; the next start sweeps everything."""
        self._names = set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
