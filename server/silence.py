"""When a worker counts as stuck: it was spoken to, and has said nothing for too long.

A worker that has work says what it counted every second, between two units of work; one without
work answers a ping. So silence means that one unit takes too long, whatever the reason: a hang in
native code, a stopped process, a disk that does not come back.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.dialogue import Dialogue

_LOOKS = 10
"""Looks per limit. Each is a look of ours, so that a pause of this process is no silence of it."""


@dataclass(frozen=True, kw_only=True)
class SilenceLimits:
    """How many seconds a worker may say nothing.

    Attributes:
        starting: Until it is ready; a checkpoint of many gigabytes tells its progress.
        ready: From then on; longer than its longest unit of work.
    """

    starting: float = 900.0
    ready: float = 300.0


async def until_silent(dialogue: Dialogue, limits: SilenceLimits) -> float:
    """Return when the worker is stuck, with the seconds that it had."""
    num_heard, num_looks = dialogue.num_messages, 0
    # The smaller limit sets the pace: it may begin to hold within a look.
    pace = min(limits.starting, limits.ready) / _LOOKS
    while True:
        await asyncio.sleep(pace)
        limit = limits.ready if dialogue.was_ready else limits.starting
        max_looks = limit / pace
        if dialogue.num_messages != num_heard:
            num_heard, num_looks = dialogue.num_messages, 0
        num_looks += 1
        if num_looks > max_looks:
            return limit
        if dialogue.was_ready and num_looks == max_looks // 2:
            dialogue.ping()
