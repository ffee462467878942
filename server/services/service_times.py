"""How long calls of a class took lately, to tell how long one more would have to wait."""

from __future__ import annotations

import math

from contract.work import WorkClass

WEIGHT = 0.2
"""Of the newest call in the running mean."""


class ServiceTimes:
    """A running mean of seconds by class of work, from the turn to its end."""

    def __init__(self) -> None:
        self._means: dict[WorkClass, float] = {}

    def add(self, work_class: WorkClass, seconds: float) -> None:
        """Count one call."""
        before = self._means.get(work_class, seconds)
        self._means[work_class] = before + WEIGHT * (seconds - before)

    def mean(self, work_class: WorkClass) -> float | None:
        """Seconds of one call; None before the first."""
        return self._means.get(work_class)

    def wait(self, work_class: WorkClass, *, place: int, num_turns: int) -> float | None:
        """Seconds until the turn of who is at this place, if so many have a turn at once.

        They leave one after another, so the first of the queue waits for a part of a call.
        """
        mean = self.mean(work_class)
        return None if mean is None else mean * place / num_turns


def retry_after_seconds(wait: float | None) -> int | None:
    """The header for a wait: whole seconds, between a second and ten minutes."""
    return None if wait is None else min(max(math.ceil(wait), 1), 600)
