"""One line of a batch: from its bytes to an answer, or to the error that it alone has."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from contract.engine import AdapterRef, Answer, Answered, ModelInfo
from contract.ids import CheckpointName
from contract.skills import Pixels, Settings, SkillRequest
from contract.work import WorkClass
from server.budget import Budget
from server.domain.errors import (
    BaseModelMismatchError,
    CheckpointNotFoundError,
    FinetuneNotFoundError,
    ImageDecodeError,
    NotSupportedError,
    RequestCrashesWorkerError,
    ServiceError,
    StateDamagedError,
    UnknownSkillError,
)
from server.domain.json_text import to_json
from server.domain.seeds import derive_seed
from server.services.adapters import Adapters
from server.services.batches.errors import (
    BatchFailedError,
    BatchFault,
    LineFault,
    LineRefusedError,
)
from server.services.batches.input import BatchInput, Span
from server.services.dispatch import Dispatcher, SupervisedEngine
from server.services.handover import Handover
from server.services.images import ImageUrl
from server.services.pictures import Pictures
from server.services.rollouts import require_skill

MEMORY_BYTES = 128 << 20
"""Of lines that are worked on, as text and as what is made of it, pictures decoded apart."""

MAX_LINE_MEMORY_BYTES = 512 << 20
"""Of one line; some megabytes of brackets take gigabytes when they are parsed."""

PAUSE_SECONDS = 1.0
"""Before a line is tried again that met a shortage."""

FOR_EVER = 1e9
"""Seconds; nobody waits for a line."""

_log = structlog.get_logger("server.batches")


@dataclass(frozen=True, kw_only=True)
class LineOrder:
    """What one line asks for, validated; `id` is any JSON, to be returned as it is."""

    id: Any
    request: SkillRequest
    images: Sequence[ImageUrl]
    settings: Settings


ReadLine = Callable[[bytes], LineOrder]
"""Reads a line, in a thread; raises LineRefusedError."""


@dataclass(frozen=True, kw_only=True)
class BatchFacts:
    """What all lines of a batch share.

    Attributes:
        model_digest: Of the base model that answers all of it.
        saved: The checkpoint that answers; None is the base model.
    """

    id: str
    account_id: str
    seed: int
    model_digest: str
    saved: CheckpointName | None


@dataclass(frozen=True, kw_only=True)
class AnsweredLine:
    """A line as it stands in the results, with its line feed, and what it cost."""

    text: bytes
    is_error: bool
    input_tokens: int = 0
    output_tokens: int = 0


class Lines:
    """Answers lines, each when it is its turn among all work of its kind."""

    def __init__(
        self,
        *,
        engine: SupervisedEngine,
        dispatcher: Dispatcher,
        handover: Handover,
        adapters: Adapters,
        pictures: Pictures,
        read_line: ReadLine,
    ):
        self._engine = engine
        self._dispatcher = dispatcher
        self._handover = handover
        self._adapters = adapters
        self._pictures = pictures
        self._read_line = read_line
        self._memory = Budget(MEMORY_BYTES)
        # The decoders are shared with callers who wait: their pictures wait for one of ours.
        self._decoding = asyncio.Semaphore(1)

    async def answer(self, batch: BatchFacts, source: BatchInput, span: Span) -> AnsweredLine:
        """Answer one line, however long shortages last and however many workers it takes.

        Raises:
            BatchFailedError: No line of the batch can be answered any more.
            ServiceError: The service is shutting down.
        """
        while True:
            try:
                return await self._attempt(batch, source, span)
            except LineRefusedError as refused:
                return _refused(span, refused.id, refused.fault, refused.message)
            except (CheckpointNotFoundError, FinetuneNotFoundError) as error:
                raise BatchFailedError(
                    BatchFault.INVALID_MODEL,
                    f"The model was deleted while the batch was worked on: {error.message}",
                ) from error
            except (BaseModelMismatchError, StateDamagedError) as error:
                raise BatchFailedError(BatchFault.PROCESSING_FAILED, error.message) from error
            except ServiceError as error:  # the database, the disk or the worker: come back later
                if self._dispatcher.is_draining:
                    raise
                _log.warning(
                    "batch_line_repeated", batch_id=batch.id, line=span.index, detail=str(error)
                )
                await asyncio.sleep(PAUSE_SECONDS)

    async def _attempt(self, batch: BatchFacts, source: BatchInput, span: Span) -> AnsweredLine:
        with self._dispatcher.place(
            WorkClass.BATCH, batch.id, account_id=batch.account_id
        ) as place:
            await place.turn(within=FOR_EVER)
            async with AsyncExitStack() as held:
                text = await asyncio.to_thread(source.read, span)
                num_bytes = await asyncio.to_thread(_memory_of, text)
                await held.enter_async_context(self._memory.share(num_bytes, within=FOR_EVER))
                order = await asyncio.to_thread(self._read_line, text)
                fingerprint = hashlib.sha256(text).digest()
                del text
                try:
                    return await self._answer(batch, span, order, fingerprint, held)
                except (LineRefusedError, BatchFailedError):
                    raise
                except ServiceError as error:
                    fault = _fault_of(error)
                    if fault is None:
                        raise
                    return _refused(span, order.id, fault, error.message)
                except Exception as error:  # of whatever nobody foresaw, one line is the price
                    _log.error(
                        "batch_line_failed", batch_id=batch.id, line=span.index, exc_info=error
                    )
                    sentence = "The server met a fault of its own; its log has it."
                    return _refused(span, order.id, LineFault.PROCESSING_ERROR, sentence)

    async def _answer(
        self,
        batch: BatchFacts,
        span: Span,
        order: LineOrder,
        fingerprint: bytes,
        held: AsyncExitStack,
    ) -> AnsweredLine:
        model = await self._handover.loaded_model()
        if model.digest != batch.model_digest:
            raise BatchFailedError(
                BatchFault.PROCESSING_FAILED,
                f"The batch was begun with another base model; now {model.name!r} is loaded. Send"
                " it again.",
            )
        require_skill(model.skills, order.request.skill, model)
        images = await self._decoded(order, held)
        adapter = await held.enter_async_context(self._adapter(batch, model))
        command = Answer(
            adapter=adapter,
            request=order.request,
            settings=order.settings,
            seed=derive_seed(batch.seed, span.index),
            work_class=WorkClass.BATCH,
        )
        answered = await self._handover.call(
            lambda: self._engine.answer(command, images), fingerprint=fingerprint
        )
        return _answered(span, order.id, answered)

    async def _decoded(self, order: LineOrder, held: AsyncExitStack) -> list[Pixels]:
        async with self._decoding:
            pictures = held.enter_context(self._pictures.of(order.images, WorkClass.BATCH))
            await pictures.measure(within=FOR_EVER)
            return await held.enter_async_context(pictures.decoded(within=FOR_EVER))

    @asynccontextmanager
    async def _adapter(
        self, batch: BatchFacts, model: ModelInfo
    ) -> AsyncGenerator[AdapterRef | None]:
        if batch.saved is None:
            yield None
            return
        async with self._adapters.saved(
            batch.account_id, batch.saved.finetune_id, batch.saved.step, model
        ) as state:
            yield state.adapter


def _memory_of(text: bytes) -> int:
    """What a line takes at most, as text, JSON and typed fields.

    Raises:
        LineRefusedError: It is more than any line may have.
    """
    num_values = text.count(b",") + text.count(b":") + text.count(b"[")
    num_bytes = 4 * len(text) + 64 * num_values + 900 * text.count(b"{")
    if num_bytes > MAX_LINE_MEMORY_BYTES:
        raise LineRefusedError(
            LineFault.INVALID_REQUEST,
            f"The line has so many values that reading it would take about {num_bytes} bytes of"
            " memory.",
        )
    return num_bytes


def _fault_of(error: ServiceError) -> LineFault | None:
    """What a refusal means for a line; None if it says nothing about the line."""
    if isinstance(error, ImageDecodeError):
        return LineFault.IMAGE_DECODE_FAILED
    if isinstance(error, UnknownSkillError | NotSupportedError):
        return LineFault.UNKNOWN_SKILL
    if isinstance(error, RequestCrashesWorkerError) or error.status == 500:
        return LineFault.PROCESSING_ERROR
    is_of_model = isinstance(
        error,
        CheckpointNotFoundError
        | FinetuneNotFoundError
        | BaseModelMismatchError
        | StateDamagedError,
    )
    return None if is_of_model or error.status > 500 else LineFault.INVALID_REQUEST


def _answered(span: Span, id: Any, answered: Answered) -> AnsweredLine:
    line = {
        "line_index": span.index,
        "id": id,
        "status": "ok",
        "result": {**answered.output, "finish_reason": answered.finish_reason.value},
        "usage": {
            "input_tokens": answered.input_tokens,
            "output_tokens": answered.output_tokens,
        },
    }
    return AnsweredLine(
        text=to_json(line) + b"\n",
        is_error=False,
        input_tokens=answered.input_tokens,
        output_tokens=answered.output_tokens,
    )


def _refused(span: Span, id: Any, fault: LineFault, message: str) -> AnsweredLine:
    line = {
        "line_index": span.index,
        "id": id,
        "status": "error",
        "error": {"code": fault.value, "message": message},
    }
    return AnsweredLine(text=to_json(line) + b"\n", is_error=True)
