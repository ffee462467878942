"""An amount of something that calls share, such as bytes: who came first is served first.

    async with budget.share(amount, within=45.0):      # waits while others have too much of it
        ...

What is larger than the whole budget may have it alone, so that nothing waits for ever. Waiting
holds nothing. For one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Budget:
    """So much, and who waits for a part of it.

    Args:
        limit: All that there is.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.used = 0
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
            await asyncio.wait({given}, timeout=max(within, 0.0))
            if not given.done():
                raise TimeoutError
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

    def _give(self) -> None:
        """Serve the first ones as far as it goes; nobody is overtaken."""
        while self._waiters and self._fits(self._waiters[0][0]):
            amount, given = self._waiters.popleft()
            self.used += amount
            given.set_result(None)

    def _fits(self, amount: int) -> bool:
        return self.used + amount <= self.limit or self.used == 0
