"""Work that outlives its caller for a while, and is taken over by the next one like it.

A caller that loses patience sends the same bytes again; what was begun for it goes on meanwhile, so
that rollouts slower than any patience are made once. Work is never shared while its own caller is
there: equal calls in parallel are independent samples. Source: http-api.md 4.5.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

import structlog

from server.domain.errors import CallerLeftError

T = TypeVar("T")

_log = structlog.get_logger("server.lingering")


class Patience:
    """From when a caller's deadlines count: its arrival, or that of whoever took over."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self.since = clock()

    def counts_from(self, moment: float) -> None:
        """The caller began to wait earlier, when its body was there."""
        self.since = min(self.since, moment)

    def renew(self) -> None:
        """Somebody took over."""
        self.since = self._clock()


class Execution(Generic[T]):
    """Work under way, and the patience of who waits for it."""

    def __init__(self, task: asyncio.Task[T], patience: Patience):
        self.task = task
        self.patience = patience
        self.ending: asyncio.TimerHandle | None = None


class Lingering(Generic[T]):
    """Work by what makes two calls the same.

    Args:
        seconds: How long work goes on, and its result is kept, after its caller left.
        clock: Monotonic seconds.
        on_taken_over: Told of each.
    """

    def __init__(
        self,
        *,
        seconds: float,
        clock: Callable[[], float],
        on_taken_over: Callable[[], None] = lambda: None,
    ):
        self._on_taken_over = on_taken_over
        self._seconds = seconds
        self._clock = clock
        self._orphans: defaultdict[Hashable, deque[Execution[T]]] = defaultdict(deque)

    @property
    def num_orphans(self) -> int:
        """How much work nobody waits for."""
        return sum(map(len, self._orphans.values()))

    async def run(
        self,
        identity: Hashable,
        begin: Callable[[Patience], Coroutine[Any, Any, T]],
        *,
        caller_left: asyncio.Future[None],
    ) -> T:
        """Wait for work of that identity: an orphan if there is one, else what `begin` begins.

        Raises:
            CallerLeftError: The caller left; the work has become an orphan.
        """
        execution = self._adopt(identity)
        if execution is None:
            patience = Patience(self._clock)
            execution = Execution(asyncio.create_task(begin(patience)), patience)
        try:
            await asyncio.wait({execution.task, caller_left}, return_when=asyncio.FIRST_COMPLETED)
            if not caller_left.done():
                return execution.task.result()
        except asyncio.CancelledError:
            self._leave(identity, execution)
            raise
        self._leave(identity, execution)
        raise CallerLeftError("The caller left.")

    def _adopt(self, identity: Hashable) -> Execution[T] | None:
        if identity not in self._orphans:
            return None
        execution = self._orphans[identity].popleft()
        if not self._orphans[identity]:
            del self._orphans[identity]
        assert execution.ending is not None, "an orphan has an end"
        execution.ending.cancel()
        execution.patience.renew()
        self._on_taken_over()
        _log.info("work_taken_over", is_done=execution.task.done())
        return execution

    def _leave(self, identity: Hashable, execution: Execution[T]) -> None:
        """Nobody waits for this any more; a refusal is of no use to anybody."""
        if execution.task.done() and _has_failed(execution.task):
            return
        self._orphans[identity].append(execution)
        loop = asyncio.get_running_loop()
        execution.ending = loop.call_later(self._seconds, self._end, identity, execution)
        execution.task.add_done_callback(lambda task: self._drop_failed(identity, execution))

    def _drop_failed(self, identity: Hashable, execution: Execution[T]) -> None:
        """An orphan that was refused: the next call like it is judged afresh."""
        is_orphan = execution in self._orphans.get(identity, ())
        if _has_failed(execution.task) and is_orphan:
            assert execution.ending is not None
            execution.ending.cancel()
            self._remove(identity, execution)

    def _end(self, identity: Hashable, execution: Execution[T]) -> None:
        """Nobody came in time."""
        self._remove(identity, execution)
        execution.task.cancel()

    def _remove(self, identity: Hashable, execution: Execution[T]) -> None:
        self._orphans[identity].remove(execution)
        if not self._orphans[identity]:
            del self._orphans[identity]


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None
