"""When a worker that ended may be started again: pauses that double, and a cap per minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class RestartSchedule:
    """Counts starts and failures of one worker, in monotonic seconds.

    The first start is at once, and so is the first one after the end of a worker that was ready:
    callers wait for it. Then the pause is `first_pause_seconds`, doubled for every further end that
    no readiness interrupted, at most `max_pause_seconds`; and never do more than `max_starts` fall
    into one `window_seconds`.
    """

    def __init__(
        self,
        *,
        first_pause_seconds: float = 1.0,
        max_pause_seconds: float = 60.0,
        max_starts: int = 10,
        window_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_pause = first_pause_seconds
        self._max_pause = max_pause_seconds
        self._window = window_seconds
        self._clock = clock
        self._starts: deque[float] = deque(maxlen=max_starts)
        self._num_ends = 0
        self._is_ready = False

    def pause_seconds(self) -> float:
        """How long to wait before the next start."""
        pause = 0.0
        if self._num_ends > 0:
            # The exponent is bounded: 2.0 ** 1024 would overflow after a thousand failures.
            doublings = min(self._num_ends - 1, 32)
            pause = min(self._first_pause * 2.0**doublings, self._max_pause)
        if len(self._starts) == self._starts.maxlen:
            pause = max(pause, self._starts[0] + self._window - self._clock())
        return pause

    def started(self) -> None:
        """A worker is started now."""
        self._starts.append(self._clock())

    def became_ready(self) -> None:
        """It answers, so earlier failures no longer count."""
        self._num_ends = 0
        self._is_ready = True

    def ended(self) -> None:
        """It is gone, whatever the reason."""
        self._num_ends += 0 if self._is_ready else 1
        self._is_ready = False
