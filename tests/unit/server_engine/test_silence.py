"""When a worker counts as stuck."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from server.silence import SilenceLimits, until_silent

pytestmark = pytest.mark.anyio


@dataclass
class Heard:
    """What is known of a worker: a dialogue as far as silence needs one."""

    was_ready: bool = False
    num_messages: int = 0
    num_pings: int = 0

    def ping(self) -> None:
        self.num_pings += 1


async def silent_after(heard: Heard, limits: SilenceLimits) -> float:
    async with asyncio.timeout(20.0):
        return await until_silent(cast("Any", heard), limits)


async def test_a_worker_that_hangs_soon_after_it_was_ready_is_not_given_the_time_of_a_start() -> (
    None
):
    heard = Heard()
    limits = SilenceLimits(starting=900.0, ready=0.1)
    waiting = asyncio.create_task(silent_after(heard, limits))
    await asyncio.sleep(0)  # it begins to look while the worker still loads
    heard.was_ready, heard.num_messages = True, 1
    assert await waiting == 0.1
    assert heard.num_pings == 1


async def test_a_worker_that_starts_has_the_longer_time() -> None:
    heard = Heard()
    assert await silent_after(heard, SilenceLimits(starting=0.1, ready=0.01)) == 0.1
    assert heard.num_pings == 0
