"""Hands one call to the engine: again when the worker died under it, not for ever.

A worker may die at any instant; the caller's connection may not. What is tried again, beside whom
and how often is decided by the quarantine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from contract.engine import ModelInfo
from contract.errors import (
    EngineError,
    EngineFailed,
    RequestRefused,
    StorageFull,
)
from server.domain.engine_status import WorkerDiedError
from server.domain.errors import (
    BatchTooLargeError,
    ImageTooLargeError,
    InternalError,
    NotSupportedError,
    ServiceError,
    StorageFullError,
    UnknownSkillError,
    ValidationFailedError,
    WorkerUnavailableError,
)
from server.services.dispatch import Dispatcher
from server.services.quarantine import Quarantine

T = TypeVar("T")

_log = structlog.get_logger("server.handover")

_REFUSALS: dict[str, type[ServiceError]] = {
    error.code: error
    for error in (BatchTooLargeError, ImageTooLargeError, NotSupportedError, UnknownSkillError)
}


class Handover:
    """Calls the engine for requests that have their turn."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        self._quarantine = Quarantine(dispatcher.clock)

    async def call(
        self,
        verb: Callable[[], Awaitable[T]],
        *,
        fingerprint: bytes,
        redo_before: float | None = None,
    ) -> T:
        """Run `verb`, and again on the next worker if one dies under it.

        Args:
            verb: One call of an Engine verb; called anew for each attempt.
            fingerprint: Recognises the same request, also when it comes again.
            redo_before: Do not begin again after this moment (dispatcher's clock); None: whenever.

        Raises:
            ServiceError: The refusal that the caller gets.
        """
        while True:
            async with self._attempt(fingerprint, redo_before):
                try:
                    result = await verb()
                except WorkerDiedError as error:
                    if self._dispatcher.is_draining:
                        raise translate(error) from error
                    self._quarantine.suspect(fingerprint, epoch=error.epoch)
                    _log.warning("worker_died_under_call", epoch=error.epoch, detail=str(error))
                except EngineError as error:
                    raise translate(error) from error
                else:
                    self._quarantine.clear(fingerprint)
                    return result

    async def loaded_model(self, *, before: float | None = None) -> ModelInfo:
        """Return what is loaded, once a worker is ready.

        Raises:
            WorkerUnavailableError: None was before that moment (dispatcher's clock).
        """
        await self._in_time(self._dispatcher.until_ready(), before)
        model = self._dispatcher.engine_status().model
        assert model is not None, "an engine that is ready has a model"
        return model

    @asynccontextmanager
    async def _attempt(self, fingerprint: bytes, before: float | None) -> AsyncGenerator[None]:
        """One attempt beside whomever it may be, once a worker is ready."""
        await self._in_time(self._quarantine.enter(fingerprint), before)
        try:
            await self._in_time(self._dispatcher.until_ready(), before)
            yield
        finally:
            self._quarantine.leave()

    async def _in_time(self, waiting: Awaitable[None], before: float | None) -> None:
        remaining = None if before is None else before - self._dispatcher.clock()
        try:
            async with asyncio.timeout(remaining):
                await waiting
        except TimeoutError:
            raise WorkerUnavailableError(
                "A worker died, and no other was free for this call in time. Ask again."
            ) from None


def translate(error: EngineError) -> ServiceError:
    """Return the refusal that an engine's error becomes."""
    if isinstance(error, RequestRefused):
        refusal = _REFUSALS.get(error.code, ValidationFailedError)
        return refusal(error.message, loc=("body", *error.loc))
    if isinstance(error, StorageFull):
        return StorageFullError("The disk of the server is full; nothing was changed.")
    if isinstance(error, EngineFailed):
        _log.error("engine_failed", detail=str(error))
        return InternalError("The worker met a fault of its own; nothing was changed.")
    return WorkerUnavailableError("There is no worker at the moment. Ask again.")
