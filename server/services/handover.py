"""Hands one call to the engine: again when the worker died under it, not for ever.

A worker may die at any instant; the caller's connection may not. A request that was in the hands of
two workers when they died is refused for good, and for some minutes at sight.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from contract.engine import ModelInfo
from contract.errors import (
    EngineError,
    EngineFailed,
    RequestRefused,
    StorageFull,
    WorkerUnavailable,
)
from server.domain.errors import (
    BatchTooLargeError,
    ImageTooLargeError,
    InternalError,
    NotSupportedError,
    RequestCrashesWorkerError,
    ServiceError,
    StorageFullError,
    UnknownSkillError,
    ValidationFailedError,
    WorkerUnavailableError,
)
from server.services.dispatch import Dispatcher

T = TypeVar("T")

MAX_DEATHS = 2
SHUT_OUT_SECONDS = 300.0
_MAX_REMEMBERED = 1000
_log = structlog.get_logger("server.handover")

_REFUSALS: dict[str, type[ServiceError]] = {
    error.code: error
    for error in (BatchTooLargeError, ImageTooLargeError, NotSupportedError, UnknownSkillError)
}


class Handover:
    """Calls the engine for requests that have their turn."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        self._deaths: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

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
            self._check_shut_out(fingerprint)
            await self._until_ready(redo_before)
            try:
                result = await verb()
            except WorkerUnavailable as error:
                if self._dispatcher.is_draining:
                    raise translate(error) from error
                self._count_death(fingerprint)
                _log.warning("worker_died_under_call", detail=str(error))
            except EngineError as error:
                raise translate(error) from error
            else:
                self._deaths.pop(fingerprint, None)
                return result

    async def loaded_model(self, *, before: float | None = None) -> ModelInfo:
        """Return what is loaded, once a worker is ready.

        Raises:
            WorkerUnavailableError: None was before that moment (dispatcher's clock).
        """
        await self._until_ready(before)
        model = self._dispatcher.engine_status().model
        assert model is not None, "an engine that is ready has a model"
        return model

    async def _until_ready(self, redo_before: float | None) -> None:
        remaining = None if redo_before is None else redo_before - self._dispatcher.clock()
        try:
            async with asyncio.timeout(remaining):
                await self._dispatcher.until_ready()
        except TimeoutError:
            raise WorkerUnavailableError(
                "The worker died under this call and its replacement is not ready. Ask again."
            ) from None

    def _count_death(self, fingerprint: bytes) -> None:
        deaths, _ = self._deaths.pop(fingerprint, (0, 0.0))
        self._deaths[fingerprint] = (deaths + 1, self._dispatcher.clock())
        if len(self._deaths) > _MAX_REMEMBERED:
            self._deaths.popitem(last=False)

    def _check_shut_out(self, fingerprint: bytes) -> None:
        deaths, last_at = self._deaths.get(fingerprint, (0, 0.0))
        if deaths < MAX_DEATHS:
            return
        if self._dispatcher.clock() - last_at > SHUT_OUT_SECONDS:
            del self._deaths[fingerprint]
            return
        raise RequestCrashesWorkerError(
            f"The worker died {deaths} times while it had this request. It is refused for"
            f" {SHUT_OUT_SECONDS:g} s; change it, or look for the cause in the server's log."
        )


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
