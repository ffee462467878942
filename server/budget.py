"""An amount of something that calls share, such as bytes: who came first is served first.

    async with budget.share(amount, within=45.0):      # waits while others have too much of it
        ...

What is larger than the whole budget may have it alone, so that nothing waits for ever. Waiting
holds nothing. For one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

RECHECK_SECONDS = 0.25
"""How often a waiter asks `has_room` again, which may change without anybody's telling."""


class Budget:
    """So much, and who waits for a part of it.

    Args:
        limit: All that there is.
        has_room: Says, besides, whether so much more fits right now.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        limit: int,
        *,
        has_room: Callable[[int], bool] = lambda _amount: True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.limit = limit
        self.used = 0
        self._has_room = has_room
        self._clock = clock
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def num_waiting(self) -> int:
        """How many wait for a part."""
        return len(self._waiters)

    def try_take(self, amount: int) -> bool:
        """Take a part at once if nobody waits and it fits; say whether it did.

        Nothing fits always: who needs no part waits for nobody.
        """
        if amount == 0:
            return True
        if self._waiters or not self._fits(amount):
            return False
        self.used += amount
        return True

    async def take(self, amount: int, *, within: float) -> None:
        """Wait for a part, which has to be given back.

        Raises:
            TimeoutError: There was no room for `within` seconds.
        """
        if self.try_take(amount):
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((amount, given))
        try:
            await self._wait(given, self._clock() + within)
        except BaseException:
            if given.done() and not given.cancelled():  # given, and called away at that moment
                self.used -= amount
            else:
                self._waiters.remove((amount, given))
            self._give()
            raise

    def give_back(self, amount: int) -> None:
        """Return what was taken."""
        self.used -= amount
        assert self.used >= 0, "more was given back than was taken"
        self._give()

    @asynccontextmanager
    async def share(self, amount: int, *, within: float) -> AsyncGenerator[None]:
        """Have a part for the length of a block; raises as `take`."""
        await self.take(amount, within=within)
        try:
            yield
        finally:
            self.give_back(amount)

    async def _wait(self, given: asyncio.Future[None], until: float) -> None:
        while not given.done():
            remaining = until - self._clock()
            if remaining <= 0:
                raise TimeoutError
            await asyncio.wait({given}, timeout=min(remaining, RECHECK_SECONDS))
            self._give()

    def _give(self) -> None:
        """Serve the first ones as far as it goes; nobody is overtaken."""
        while self._waiters and self._fits(self._waiters[0][0]):
            amount, given = self._waiters.popleft()
            self.used += amount
            given.set_result(None)

    def _fits(self, amount: int) -> bool:
        is_within = self.used + amount <= self.limit or self.used == 0
        return is_within and self._has_room(amount)
