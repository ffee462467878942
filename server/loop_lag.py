"""How late the event loop is: what blocks it, blocks every call at once."""

from __future__ import annotations

import asyncio

from server.meters import LOOP_LAG_SECONDS, Meters

LOOK_SECONDS = 0.05


async def watch_loop(meters: Meters) -> None:
    """Measure until cancelled: how much later than it was to, does a sleep end?"""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        meters.observe(LOOP_LAG_SECONDS, max(0.0, loop.time() - due))
