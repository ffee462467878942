"""A gate through which many may pass together, or one alone; who must be alone goes first."""

from __future__ import annotations

import asyncio
from collections import deque

_Waiters = deque[asyncio.Future[None]]


class Gate:
    """A readers-writer lock for one event loop; waiting may be cancelled, leaving never waits.

    While someone waits to be alone, nobody else enters; who is inside already ends first.
    """

    def __init__(self) -> None:
        self._num_inside = 0
        self._is_one_alone = False
        self._lonely: _Waiters = deque()
        self._sociable: _Waiters = deque()

    async def enter(self, *, alone: bool) -> None:
        """Wait until one may be inside; whoever returns from here has to `leave`."""
        waiters = self._lonely if alone else self._sociable
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters.append(entered)
        self._admit()
        try:
            await entered
        except asyncio.CancelledError:
            if entered.cancelled():
                waiters.remove(entered)
                self._admit()  # others may have waited for this one only
            else:  # let in, and called away before it could take a step
                self.leave()
            raise

    def leave(self) -> None:
        """Go out."""
        self._num_inside -= 1
        self._is_one_alone = False
        self._admit()

    def _admit(self) -> None:
        """Let in whoever may be inside now."""
        if self._is_one_alone:
            return
        if lonely := _pending(self._lonely):
            if self._num_inside == 0:
                self._is_one_alone = True
                self._let_in(lonely[0], self._lonely)
            return
        for waiter in _pending(self._sociable):
            self._let_in(waiter, self._sociable)

    def _let_in(self, waiter: asyncio.Future[None], waiters: _Waiters) -> None:
        waiters.remove(waiter)
        self._num_inside += 1
        waiter.set_result(None)


def _pending(waiters: _Waiters) -> _Waiters:
    """Without those who were called away and have not noticed yet."""
    return deque(waiter for waiter in waiters if not waiter.done())
