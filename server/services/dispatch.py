"""Dispatcher: who is handed to the engine next, and how long anyone waits.

The API holds calls here, in front of the engine, which computes many at once. Rollouts and
inference, downloads included, share `max_calls` turns. Training has one turn of its own: a step of
gigabytes waits here and not in the worker, answers never wait for a step's turn, nor a step for
theirs. Lines of batches have `max_batch_calls` turns of their own, an eighth of them while anything
else waits or runs, or did some seconds ago, so that nobody waits for theirs. Turns go round over
the classes of work that have one free, inside a class round over accounts, and inside an account
round over finetunes (`lanes.py`). Train steps of one finetune run in the order in which they took
their place. Nothing is handed over until the engine is ready: while the model loads, calls wait.

    with dispatcher.place(WorkClass.TRAINING, finetune_id) as place:   # the order is fixed here
        await place.front(within=600)                                  # now it may have its pixels
        images = await decode(...)
        await place.turn(within=600)                                   # raises after 600 seconds
        ...                                                            # the turn ends here
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Protocol, Self

from contract.engine import Engine
from contract.errors import EngineError
from contract.stats import EngineStats
from contract.work import WorkClass
from server.domain.engine_status import EngineStatus
from server.domain.errors import (
    CallerLeftError,
    OverloadedError,
    ServiceError,
    StartingError,
    WorkerUnavailableError,
)
from server.meters import QUEUE_SECONDS, Meters
from server.services.lanes import Lanes
from server.services.service_times import ServiceTimes, retry_after_seconds

READY_POLL_SECONDS = 0.05
MAX_TRAIN_CALLS = 1

BATCH_DIVISOR = 8
"""Beside other work, batches have this part of their turns; one at least."""

CALM_SECONDS = 5.0
"""So long after the last other call batches have all their turns: a client that calls again and
again would find each pause filled with them."""

KEEPS_ONE_FROM = 4
"""With so many turns or more, one finetune never has all of them: who comes beside its queue is not
kept waiting for one of its calls to end."""

MAX_AT_THE_FRONT = 2
"""Train steps that have their pixels ready, or are about to, while another one runs."""


class SupervisedEngine(Engine, Protocol):
    """An engine that says how it is and what it counted, and can be started and stopped."""

    async def start(self) -> None:
        """Begin to start the worker; returns without waiting for the model."""
        ...

    async def stop(self, *, at_once: bool = False) -> None:
        """End the worker, in order or by killing it."""
        ...

    def status(self) -> EngineStatus:
        """Say how the worker is; never `ready` after a call raised WorkerUnavailable."""
        ...

    def stats(self) -> EngineStats:
        """Say what the present worker has counted; empty while there is none."""
        ...


class Place:
    """One place in the queue, and the turn it becomes."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        work_class: WorkClass,
        lane: str,
        account_id: str,
        since: float | None,
    ):
        self.work_class = work_class
        self.lane = lane
        self.account_id = account_id
        self.is_running = False
        self.is_at_front = False
        self.wanted: Literal["front", "turn"] = "turn"
        self.waits_since = dispatcher.clock() if since is None else since
        self.turn_at = 0.0
        self._dispatcher = dispatcher
        self._granted: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether something was asked for and not given yet."""
        return self._granted is not None and not self._granted.done()

    def seconds_left(self, within: float) -> float:
        """Of so many seconds since the wait began."""
        return max(self.waits_since + within - self._dispatcher.clock(), 0.0)

    async def front(self, *, within: float) -> None:
        """Wait until this train step is the next of its finetune, and one of the next of all.

        There are few of them, so what they need for their turn may be made ready. Raises as `turn`.
        """
        self.wanted = "front"
        await self._wait(within, None)

    async def turn(self, *, within: float, unless: asyncio.Future[None] | None = None) -> None:
        """Wait for the turn, counted from when the wait began.

        Args:
            within: Seconds.
            unless: Gives the place up when it completes: the caller has left.

        Raises:
            ServiceError: The time is over, the caller left or the service is shutting down.
        """
        self.wanted = "turn"
        await self._wait(within, unless)

    async def _wait(self, within: float, unless: asyncio.Future[None] | None) -> None:
        self._dispatcher.check_open()
        granted = asyncio.get_running_loop().create_future()
        self._granted = granted
        if unless is not None:
            unless.add_done_callback(lambda _: self.give_up(CallerLeftError("The caller left.")))
            if unless.done():
                raise CallerLeftError("The caller left.")
        self._dispatcher.grant()
        try:
            await asyncio.wait({granted}, timeout=self.seconds_left(within))
            if granted.done():
                granted.result()
                return
            raise self._dispatcher.too_late(self, within)
        finally:
            granted.cancel()

    def give(self) -> None:
        """Grant what was asked for."""
        assert self._granted is not None
        self.is_at_front = self.wanted == "front"
        self.is_running = self.wanted == "turn"
        self._granted.set_result(None)

    def give_up(self, reason: ServiceError) -> None:
        """Refuse the turn if it was not granted yet."""
        if self.is_waiting:
            assert self._granted is not None
            self._granted.set_exception(reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._dispatcher.leave(self)


class Dispatcher:
    """Order, fairness and deadlines of everything that needs the engine.

    Args:
        max_calls: Inference and rollouts that the engine has at once.
        max_batch_calls: Lines of batches that it has at once, when it has nothing else.
        clock: Monotonic seconds.
        meters: Told how long each call waited.
    """

    def __init__(
        self,
        engine: SupervisedEngine,
        *,
        max_calls: int = 1,
        max_batch_calls: int = 1,
        clock: Callable[[], float] = time.monotonic,
        meters: Meters | None = None,
    ):
        self.clock = clock
        self._meters = meters or Meters()
        self._engine = engine
        self._max_calls = max_calls
        self._max_batch_calls = max_batch_calls
        self._num_running: Counter[WorkClass] = Counter()
        self._num_of_lane: Counter[tuple[str, str]] = Counter()
        """Of the `max_calls` turns, by account and lane."""
        self._classes: OrderedDict[WorkClass, Lanes[Place]] = OrderedDict(
            (work_class, Lanes[Place]()) for work_class in WorkClass
        )
        self._times = ServiceTimes()
        self._watcher: asyncio.Task[None] | None = None
        self._is_draining = False
        self._is_closed = False
        self._empty = asyncio.Event()
        """Nobody has a place."""
        self._calm_at = 0.0
        self._calming: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        """How many calls wait for their turn."""
        return sum(place.is_waiting for place in self._places())

    @property
    def num_running(self) -> int:
        """How many calls the engine has."""
        return self._num_running.total()

    @property
    def is_draining(self) -> bool:
        """Whether the service is shutting down."""
        return self._is_draining

    def calls_waiting(self) -> Counter[WorkClass]:
        """How many calls of each class wait for their turn."""
        return Counter(place.work_class for place in self._places() if place.is_waiting)

    def calls_running(self) -> Counter[WorkClass]:
        """How many calls of each class the engine has."""
        return self._num_running.copy()

    def predicted_wait(self, work_class: WorkClass) -> float:
        """Seconds that one more call would wait for its turn, as calls went lately."""
        num_waiting = self.calls_waiting()[work_class]
        if not num_waiting and self._has_turn(work_class):
            return 0.0
        return self._wait_at(work_class, num_waiting + 1) or 0.0

    def service_seconds(self, work_class: WorkClass) -> float:
        """Seconds that a call took lately from its turn to its end; 0 before the first."""
        return self._times.mean(work_class) or 0.0

    def place(
        self, work_class: WorkClass, lane: str, *, account_id: str = "", since: float | None = None
    ) -> Place:
        """Take a place; leave it by leaving its `with` block.

        Args:
            work_class: Turns go round over classes.
            lane: Inside an account, turns go round over lanes: the finetune, or the base model.
            account_id: Inside a class, turns go round over accounts.
            since: When the wait of the call began (our clock): all of it counts; None: now.
        """
        place = Place(self, work_class, lane, account_id, since)
        self._empty.clear()
        self._classes[work_class].add(place)
        return place

    def leave(self, place: Place) -> None:
        """Free a place and, if it was running, its turn."""
        self._classes[place.work_class].remove(place)
        if place.is_running:
            place.is_running = False
            self._num_running[place.work_class] -= 1
            self._forget(place)
            self._times.add(place.work_class, self.clock() - place.turn_at)
        if not self._places():
            self._empty.set()
        if place.work_class is not WorkClass.BATCH:
            self._note_other_work()
        self.grant()

    def grant(self) -> None:
        """Give turns while there are free ones and someone waits."""
        while (place := self._next()) is not None:
            if not self._is_ready():
                self._watch()
                return
            if not place.is_at_front:
                self._classes[place.work_class].had_a_turn(place)
            if place.wanted == "turn":
                self._begin(place)
            place.give()

    async def until_ready(self) -> None:
        """Wait until the engine is ready.

        Raises:
            WorkerUnavailableError: The service has shut down before it was.
        """
        while not self._is_ready():
            if self._is_closed:
                raise WorkerUnavailableError("The server is shutting down; nothing was changed.")
            await asyncio.shield(self._watch())

    def engine_status(self) -> EngineStatus:
        """How the engine is."""
        return self._engine.status()

    def check_open(self) -> None:
        """Raise if the service is shutting down."""
        if self._is_draining:
            raise OverloadedError("The server is shutting down. Ask again in a few seconds.")

    def drain(self) -> None:
        """Refuse every call that waits or comes; running ones go on."""
        self._is_draining = True
        for place in list(self._places()):
            place.give_up(
                OverloadedError("The server is shutting down. Ask again in a few seconds.")
            )

    async def close(self, *, grace_seconds: float) -> None:
        """Drain, then wait for who is not refused by that, within the grace; twice is once.

        Those are running calls, and those whose pictures are being looked at: they learn of it when
        they ask for their turn.
        """
        if self._is_closed:
            return
        self.drain()
        if self._places():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace_seconds)
        self._is_closed = True  # ends the watcher, and who waits for it with a refusal

    def too_late(self, place: Place, waited_seconds: float) -> ServiceError:
        """The refusal of a call whose time is over: why, how far it came, when to ask again."""
        lanes = self._classes[place.work_class]
        waiting = list(lanes.in_order(lambda other: other.is_waiting))
        number = waiting.index(place) + 1
        return refusal_of(
            self._engine.status(),
            f"The call waited {waited_seconds:g} s for its turn and is at place {number} of"
            f" {len(waiting)} for {place.work_class.value};"
            f" {self.num_running} calls run and {self.num_waiting} wait.",
            retry_after=retry_after_seconds(self._wait_at(place.work_class, number)),
        )

    def _begin(self, place: Place) -> None:
        assert not place.is_running, "a place has one turn"
        self._classes.move_to_end(place.work_class)
        self._num_running[place.work_class] += 1
        self._num_of_lane[place.account_id, place.lane] += _counts(place)
        place.turn_at = self.clock()
        waited = place.turn_at - place.waits_since
        self._meters.observe(QUEUE_SECONDS, waited, place.work_class.value)

    def _wait_at(self, work_class: WorkClass, number: int) -> float | None:
        num_turns = {
            WorkClass.TRAINING: MAX_TRAIN_CALLS,
            WorkClass.BATCH: self._max_batch_calls,
        }.get(work_class, self._max_calls)
        return self._times.wait(work_class, place=number, num_turns=num_turns)

    def _places(self) -> list[Place]:
        return [place for lanes in self._classes.values() for place in lanes]

    def _is_ready(self) -> bool:
        return self._engine.status().state == "ready"

    def _next(self) -> Place | None:
        """Whose turn it is among those for whom there is one."""
        for work_class, lanes in self._classes.items():
            for places in lanes.by_turn():
                place = _first_waiting(work_class, places)
                if place is not None and self._may_have(place):
                    return place
        return None

    def _may_have(self, place: Place) -> bool:
        if place.wanted == "turn":
            return self._has_turn(place.work_class) and not self._has_all_others(place)
        at_front = sum(other.is_at_front for other in self._classes[WorkClass.TRAINING])
        return at_front < MAX_AT_THE_FRONT

    def _has_turn(self, work_class: WorkClass) -> bool:
        num_steps = self._num_running[WorkClass.TRAINING]
        num_lines = self._num_running[WorkClass.BATCH]
        if work_class is WorkClass.TRAINING:
            return num_steps < MAX_TRAIN_CALLS
        if work_class is WorkClass.BATCH:
            return num_lines < self._num_batch_turns()
        return self.num_running - num_steps - num_lines < self._max_calls

    def _forget(self, place: Place) -> None:
        """One of the lane has ended; lanes without any are not kept."""
        key = place.account_id, place.lane
        self._num_of_lane[key] -= _counts(place)
        if not self._num_of_lane[key]:
            del self._num_of_lane[key]

    def _has_all_others(self, place: Place) -> bool:
        """Whether this would be the last turn, and its finetune has every other one."""
        if self._max_calls < KEEPS_ONE_FROM or not _counts(place):
            return False
        return self._num_of_lane[place.account_id, place.lane] >= self._max_calls - 1

    def _num_batch_turns(self) -> int:
        is_alone = self.clock() >= self._calm_at and all(
            work_class is WorkClass.BATCH or not any(lanes)
            for work_class, lanes in self._classes.items()
        )
        return self._max_batch_calls if is_alone else max(1, self._max_batch_calls // BATCH_DIVISOR)

    def _note_other_work(self) -> None:
        """Somebody else has ended: batches have few turns until nobody has come for a while."""
        self._calm_at = self.clock() + CALM_SECONDS
        if self._calming is not None:
            self._calming.cancel()
        self._calming = asyncio.get_running_loop().call_later(CALM_SECONDS, self.grant)

    def _watch(self) -> asyncio.Task[None]:
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._become_ready())
        return self._watcher

    async def _become_ready(self) -> None:
        while not self._is_ready() and not self._is_closed:
            await _ignoring_engine_errors(self._engine.describe)
            if not self._is_ready():
                await asyncio.sleep(READY_POLL_SECONDS)
        self.grant()


def _counts(place: Place) -> bool:
    """Whether a call has one of the `max_calls` turns."""
    return place.work_class in (WorkClass.ROLLOUTS, WorkClass.INFERENCE)


def _first_waiting(work_class: WorkClass, places: deque[Place]) -> Place | None:
    """Who in a lane may go next; in training only its head, be it preparing or running."""
    candidates = [places[0]] if work_class is WorkClass.TRAINING else places
    return next((place for place in candidates if place.is_waiting), None)


async def _ignoring_engine_errors(call: Callable[[], Awaitable[object]]) -> None:
    try:
        await call()
    except EngineError:
        return


def refusal_of(
    status: EngineStatus, sentence: str, *, retry_after: int | None = None
) -> ServiceError:
    """The 503 that tells why work does not start: loading, worker away, or too much of it."""
    if status.state == "starting":
        return StartingError(f"The model is still loading. {status.detail} {sentence}".strip())
    if status.state == "unavailable":
        return WorkerUnavailableError(
            f"The worker is being replaced. {status.detail} {sentence}".strip()
        )
    return OverloadedError(f"{sentence} Ask again later.", retry_after=retry_after)
