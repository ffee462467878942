"""Hands one call to the engine: again when the worker died under it, not for ever.

A worker may die at any instant; the caller's connection may not. What is tried again, beside whom
and how often is decided by the quarantine. A call is in its gate as long as a worker has it, also
when its caller has left meanwhile: a death then is its own, and not that of a suspect who runs
alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from contract.engine import ModelInfo
from contract.errors import (
    EngineError,
    EngineFailed,
    RequestRefused,
    StateDamaged,
    StorageFull,
    WorkerUnavailable,
)
from server.domain.engine_status import NotHandedOverError, WorkerDiedError
from server.domain.errors import (
    BatchTooLargeError,
    ImageTooLargeError,
    InternalError,
    NotSupportedError,
    ServiceError,
    StateDamagedError,
    StorageFullError,
    UnknownSkillError,
    ValidationFailedError,
    WorkerUnavailableError,
)
from server.services.dispatch import Dispatcher, refusal_of
from server.services.quarantine import Quarantine

T = TypeVar("T")

_log = structlog.get_logger("server.handover")

_REFUSALS: dict[str, type[ServiceError]] = {
    error.code: error
    for error in (BatchTooLargeError, ImageTooLargeError, NotSupportedError, UnknownSkillError)
}


class _TooLateError(Exception):
    """The moment before which a call may begin has passed."""


class Handover:
    """Calls the engine for requests that have their turn."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        self._quarantine = Quarantine(dispatcher.clock)
        self._in_hand: set[asyncio.Task[Any]] = set()

    async def call(
        self,
        verb: Callable[[], Awaitable[T]],
        *,
        fingerprint: bytes,
        begin_before: float | None = None,
        redo_before: float | None = None,
        may_redo: Callable[[], bool] = lambda: True,
    ) -> T:
        """Run `verb`, and again on the next worker if one dies under it.

        Cancelling it cancels the verb and waits until the engine is done with it.

        Args:
            verb: One call of an Engine verb; called anew for each attempt.
            fingerprint: Recognises the same request, also when it comes again.
            begin_before: Do not begin after this moment (dispatcher's clock); None: whenever. A
                worker that ended before it saw the call is no beginning.
            redo_before: Do not begin again after this one; None: as `begin_before`.
            may_redo: Asked when a worker died under it, before anything else happens.

        Raises:
            ServiceError: The refusal that the caller gets.
        """
        before, has_lost_worker = begin_before, False
        while True:
            await self._enter(fingerprint, before, has_lost_worker=has_lost_worker)
            try:
                return await self._until_back(verb, fingerprint)
            except NotHandedOverError as error:
                if self._dispatcher.is_draining:
                    raise translate(error) from error
                continue
            except WorkerDiedError as error:
                if self._dispatcher.is_draining or not may_redo():
                    raise translate(error) from error
            except EngineError as error:
                raise translate(error) from error
            before = begin_before if redo_before is None else redo_before
            has_lost_worker = True

    async def loaded_model(self, *, before: float | None = None) -> ModelInfo:
        """Return what is loaded, once a worker is ready.

        Raises:
            ServiceError: None was before that moment (dispatcher's clock).
        """
        try:
            await self._in_time(self._dispatcher.until_ready, before)
        except _TooLateError:
            raise self._too_late() from None
        model = self._dispatcher.engine_status().model
        assert model is not None, "an engine that is ready has a model"
        return model

    async def _enter(
        self, fingerprint: bytes, before: float | None, *, has_lost_worker: bool
    ) -> None:
        """Be let in, beside whomever it may be, once a worker is ready."""
        try:
            await self._in_time(lambda: self._quarantine.enter(fingerprint), before)
            try:
                await self._in_time(self._dispatcher.until_ready, before)
            except BaseException:
                self._quarantine.leave(fingerprint)
                raise
        except _TooLateError:
            if has_lost_worker:
                raise WorkerUnavailableError(
                    "The worker died under this call, and it was too late to do it again; nothing"
                    " was changed. Ask again."
                ) from None
            raise self._too_late() from None

    async def _until_back(self, verb: Callable[[], Awaitable[T]], fingerprint: bytes) -> T:
        """One attempt; leaves the gate when the engine is done with it, not when its caller is."""
        attempt = asyncio.create_task(self._attempt(verb, fingerprint))
        self._in_hand.add(attempt)
        attempt.add_done_callback(lambda ended: self._back(ended, fingerprint))
        try:
            await asyncio.wait({attempt})
        except asyncio.CancelledError:
            attempt.cancel()
            await asyncio.wait({attempt})  # cancelled again, the caller goes and the attempt stays
            raise
        return attempt.result()

    async def _attempt(self, verb: Callable[[], Awaitable[T]], fingerprint: bytes) -> T:
        """Run the verb, and note what its end says about the request."""
        try:
            result = await verb()
        except asyncio.CancelledError as cancelled:
            if isinstance(cancelled.__cause__, WorkerDiedError):
                self._note_death(cancelled.__cause__, fingerprint)
            raise
        except WorkerDiedError as error:
            self._note_death(error, fingerprint)
            raise
        except WorkerUnavailable:
            raise  # no worker had it
        except EngineError:
            self._quarantine.clear(fingerprint)  # an answer, too: the worker lives
            raise
        self._quarantine.clear(fingerprint)
        return result

    def _note_death(self, error: WorkerDiedError, fingerprint: bytes) -> None:
        if not self._dispatcher.is_draining:
            self._quarantine.suspect(fingerprint, epoch=error.epoch)
            _log.warning("worker_died_under_call", epoch=error.epoch, detail=str(error))

    def _back(self, ended: asyncio.Task[Any], fingerprint: bytes) -> None:
        self._in_hand.discard(ended)
        self._quarantine.leave(fingerprint)
        if not ended.cancelled():
            ended.exception()  # looked at, so that asyncio does not report it when nobody waits

    async def _in_time(self, wait: Callable[[], Awaitable[None]], before: float | None) -> None:
        """Wait, but not beyond that moment."""
        remaining = None if before is None else before - self._dispatcher.clock()
        try:
            if remaining is not None and remaining <= 0:
                raise TimeoutError  # also where there would be nothing to wait for
            async with asyncio.timeout(remaining):
                await wait()
        except TimeoutError:
            raise _TooLateError from None

    def _too_late(self) -> ServiceError:
        """The refusal of a call that no worker has had: why not, as far as anybody knows."""
        if self._quarantine.has_suspects:
            return WorkerUnavailableError(
                "A worker died, so that calls are tried again alone; this one could not be handed"
                " over in time, and nothing was changed. Ask again."
            )
        return refusal_of(
            self._dispatcher.engine_status(),
            f"The call was at place 1 of {self._dispatcher.num_waiting + 1}, and its time was over"
            f" when its turn came; {self._dispatcher.num_running} calls have theirs. Nothing was"
            " changed.",
        )


def translate(error: EngineError) -> ServiceError:
    """Return the refusal that an engine's error becomes."""
    if isinstance(error, RequestRefused):
        refusal = _REFUSALS.get(error.code, ValidationFailedError)
        return refusal(error.message, loc=("body", *error.loc))
    if isinstance(error, StorageFull):
        _log.error("storage_full", detail=str(error))
        return StorageFullError.of(error)
    if isinstance(error, StateDamaged):
        _log.error("state_damaged", detail=str(error))
        return StateDamagedError()
    if isinstance(error, EngineFailed):
        _log.error("engine_failed", detail=str(error))
        return InternalError("The worker met a fault of its own; nothing was changed.")
    return WorkerUnavailableError("There is no worker at the moment. Ask again.")
