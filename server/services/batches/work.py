"""One batch from its lines to its results; every line is answered once, whatever ends in between.

    chunking      the input is read once: its digests, how many lines
    processing    answers -> file (durable) -> commit, some lines at a time, in order
    completed     results -> files (durable) -> commit

Answers count when the row that names their file is committed, with the number of lines that are
answered. Who begins again goes on behind them; what was not committed is answered again, with the
same seeds, and its file is swept.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from contract import faults
from contract.engine import FileRef
from contract.ids import CheckpointName
from server.batch_files import BatchFiles
from server.db import batches
from server.db.connection import Database
from server.db.models import Batch, BatchFileKind, BatchState
from server.domain.clock import NowMs, now_ms
from server.domain.errors import OverloadedError, StorageFullError
from server.files import is_intact
from server.services.batches.cleanup import BatchCleanup
from server.services.batches.errors import BatchFailedError, BatchFault
from server.services.batches.input import BatchInput, Span
from server.services.batches.lines import AnsweredLine, BatchFacts, Lines
from server.services.handover import Handover
from server.services.models import Models

SPANS_AT_ONCE = 1000
COMMIT_SECONDS = 60.0
"""So long after the last commit answers are committed, however few they are."""

MAX_CHUNK_BYTES = 16 << 20
"""Of answers in memory before they are written, however few lines they are."""

PAUSE_SECONDS = 5.0
"""Before a write is offered again to a full disk or a busy database."""

_log = structlog.get_logger("server.batches")


class BatchGoneError(Exception):
    """The batch is no longer where this work left it; nothing is to be done."""


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """How large things may be.

    Attributes:
        max_lines: Of a batch.
        max_line_bytes: Of a line.
        chunk_lines: Answers that are committed together.
        output_lines: Of one file of results.
        max_seconds: Of work on a batch.
        window: Lines that wait for their turn or run, at most.
    """

    max_lines: int
    max_line_bytes: int
    chunk_lines: int
    output_lines: int
    max_seconds: float
    window: int


@dataclass(kw_only=True)
class _Chunk:
    """Answers in order that are not committed yet."""

    lines: list[AnsweredLine] = field(default_factory=list[AnsweredLine])
    next_byte: int = 0
    num_bytes: int = 0

    def add(self, span: Span, line: AnsweredLine) -> None:
        self.lines.append(line)
        self.next_byte = span.next
        self.num_bytes += len(line.text)


class BatchWork:
    """Does batches, one at a time for each `run`."""

    def __init__(
        self,
        *,
        database: Database,
        files: BatchFiles,
        cleanup: BatchCleanup,
        lines: Lines,
        handover: Handover,
        models: Models,
        limits: BatchLimits,
        now: NowMs = now_ms,
    ):
        self._database = database
        self._files = files
        self._cleanup = cleanup
        self._lines = lines
        self._handover = handover
        self._models = models
        self._limits = limits
        self._now = now

    async def run(self, batch_id: str, stopping: asyncio.Event) -> None:
        """Work on a batch until it has ended, or until told to stop.

        Told to stop, it gives up the lines under way and commits those in front of them.

        Raises:
            BatchGoneError: Somebody else has ended it.
            Exception: Whatever nobody foresaw; it can be run again.
        """
        try:
            await self._run(batch_id, stopping)
        except BatchFailedError as error:
            await self.fail(batch_id, error)
        finally:
            self._cleanup.sweep_soon(batch_id)

    async def fail(self, batch_id: str, error: BatchFailedError) -> None:
        """End a batch that cannot be answered."""
        _log.warning(
            "batch_failed", batch_id=batch_id, code=error.fault.value, detail=error.message
        )
        await self._database.write(_fail, batch_id, error, at_ms=self._now())

    async def _run(self, batch_id: str, stopping: asyncio.Event) -> None:
        batch, parts = await self._database.read(_open, batch_id)
        source = BatchInput([self._files.absolute(part) for part in parts])
        if batch.state == BatchState.CHUNKING:
            num_lines = await asyncio.to_thread(
                source.count_lines,
                max_lines=self._limits.max_lines,
                max_line_bytes=self._limits.max_line_bytes,
            )
            await self._database.write(_chunked, batch_id, num_lines=num_lines)
            batch, _ = await self._database.read(_open, batch_id)
        if batch.num_answered < batch.num_lines:
            facts = await self._begin(batch, stopping)
            if facts is None or not await self._answer_all(batch, facts, source, stopping):
                return
        await self._finish(batch_id)

    async def _begin(self, batch: Batch, stopping: asyncio.Event) -> BatchFacts | None:
        """Wait for a model, and be bound to it; None if told to stop before."""
        loading = asyncio.ensure_future(self._handover.loaded_model())
        if not await _unless(stopping, loading):
            return None
        model = loading.result()
        saved = None
        if not self._models.is_base(batch.model):
            saved = CheckpointName.parse(batch.model or "")
            if saved is None:
                raise BatchFailedError(
                    BatchFault.INVALID_MODEL,
                    f"The model is neither the loaded one, {model.name!r}, nor a checkpoint.",
                )
        digest = batch.base_model_digest
        if digest is None:
            digest = await self._database.write(_bind, batch.id, model_digest=model.digest)
        return BatchFacts(
            id=batch.id,
            account_id=batch.account_id,
            seed=batch.seed,
            model_digest=digest,
            saved=saved,
        )

    async def _answer_all(
        self, batch: Batch, facts: BatchFacts, source: BatchInput, stopping: asyncio.Event
    ) -> bool:
        """Answer what is not answered yet; whether that is everything."""
        spans = _Spans(source, index=batch.num_answered, start=batch.next_byte)
        running: deque[tuple[Span, asyncio.Task[AnsweredLine]]] = deque()
        chunk, first = _Chunk(), batch.num_answered
        clock = _WorkClock(batch.worked_seconds)
        try:
            while True:
                while len(running) < self._limits.window and (span := await spans.next()):
                    task = asyncio.create_task(self._lines.answer(facts, source, span))
                    running.append((span, task))
                if running and await _unless(stopping, running[0][1]) and not stopping.is_set():
                    span, task = running.popleft()
                    chunk.add(span, task.result())
                    if running and not self._is_full(chunk, clock):
                        continue
                while stopping.is_set() and running and _has_result(running[0][1]):
                    span, task = running.popleft()
                    chunk.add(span, task.result())
                if chunk.lines:
                    await self._keep(batch.id, first, chunk, clock, stopping)
                    first += len(chunk.lines)
                    chunk = _Chunk()
                if clock.seconds > self._limits.max_seconds:
                    raise BatchFailedError(
                        BatchFault.TIMEOUT,
                        f"After {clock.seconds:.0f} seconds of work {first} of"
                        f" {batch.num_lines} lines are answered. Send smaller batches.",
                    )
                if stopping.is_set() or not running:
                    return first == batch.num_lines
        finally:
            for _, task in running:
                task.cancel()
            await asyncio.gather(*(task for _, task in running), return_exceptions=True)

    def _is_full(self, chunk: _Chunk, clock: _WorkClock) -> bool:
        return (
            len(chunk.lines) >= self._limits.chunk_lines
            or chunk.num_bytes >= MAX_CHUNK_BYTES
            or clock.unsaved_seconds >= COMMIT_SECONDS
        )

    async def _keep(
        self, batch_id: str, first: int, chunk: _Chunk, clock: _WorkClock, stopping: asyncio.Event
    ) -> None:
        """Make answers count; offered again to a disk or a database that is short."""
        while True:
            path = self._files.new_answers(batch_id, first)
            try:
                with self._files.hold(path):
                    file = await self._files.write(
                        path, lambda: (line.text for line in chunk.lines), chunk.num_bytes
                    )
                    await self._database.write(
                        _record, batch_id, first, chunk, file, worked_seconds=clock.seconds
                    )
                clock.saved()
                return
            except (OverloadedError, StorageFullError) as error:
                if stopping.is_set():
                    raise
                _log.warning("batch_commit_repeated", batch_id=batch_id, detail=str(error))
                await _pause(stopping)

    async def _finish(self, batch_id: str) -> None:
        """Make the results of the answers, and have the input and the answers count no more."""
        answers = await self._database.read(_answers, batch_id)
        answers = [self._files.absolute(file) for file in answers]
        if not all([await asyncio.to_thread(is_intact, file) for file in answers]):
            raise BatchFailedError(
                BatchFault.PROCESSING_FAILED,
                "Answers are damaged on the server's disk. Upload the batch again.",
            )
        num_lines = (await self._database.read(_open, batch_id))[0].num_lines
        num_outputs = math.ceil(num_lines / self._limits.output_lines)
        total = sum(file.num_bytes for file in answers)
        paths = [self._files.new_output(batch_id, index) for index in range(num_outputs)]
        lines = _lines_of(answers)
        with self._files.hold(*paths):
            outputs = [
                await self._files.write(
                    path, lambda: islice(lines, self._limits.output_lines), total // num_outputs
                )
                for path in paths
            ]
            await self._database.write(_complete, batch_id, outputs, at_ms=self._now())
        _log.info("batch_completed", batch_id=batch_id, num_lines=num_lines)


class _Spans:
    """Where lines lie, read some hundreds ahead."""

    def __init__(self, source: BatchInput, *, index: int, start: int):
        self._source = source
        self._index: int = index
        self._start: int = start
        self._ahead: deque[Span] = deque()

    async def next(self) -> Span | None:
        """The next one, if there is one."""
        if not self._ahead:
            self._ahead += await asyncio.to_thread(
                self._source.spans, index=self._index, start=self._start, at_most=SPANS_AT_ONCE
            )
            if not self._ahead:
                return None
            self._index, self._start = self._ahead[-1].index + 1, self._ahead[-1].next
        return self._ahead.popleft()


class _WorkClock:
    """How long a batch has been worked on, in this process and those before; monotonic."""

    def __init__(self, before: float):
        self._before = before
        self._started = self._saved_at = time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    @property
    def unsaved_seconds(self) -> float:
        return time.monotonic() - self._saved_at

    def saved(self) -> None:
        self._saved_at = time.monotonic()


async def _unless(stopping: asyncio.Event, work: asyncio.Future[Any]) -> bool:
    """Wait for work; whether it is done, rather than given up because of the end."""
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        if not work.done():
            work.cancel()
    return work.done() and not work.cancelled()


def _has_result(work: asyncio.Future[Any]) -> bool:
    return work.done() and not work.cancelled() and work.exception() is None


async def _pause(stopping: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(PAUSE_SECONDS):
            await stopping.wait()
    except TimeoutError:
        return


def _lines_of(answers: Sequence[FileRef]) -> Iterator[bytes]:
    for file in answers:
        with Path(file.path).open("rb") as reading:
            yield from reading


def _open(session: Session, batch_id: str) -> tuple[Batch, list[FileRef]]:
    batch = _required(session, batch_id)
    parts = batches.files_of(session, batch_id, BatchFileKind.PART)
    return batch, [part.file for part in parts]


def _required(session: Session, batch_id: str) -> Batch:
    batch = batches.find_by_id(session, batch_id)
    if batch is None or batch.state not in batches.OPEN:
        raise BatchGoneError(f"Batch {batch_id} is not to be worked on any more.")
    return batch


def _chunked(session: Session, batch_id: str, *, num_lines: int) -> None:
    batch = _required(session, batch_id)
    batch.num_lines = num_lines
    batch.state = BatchState.PROCESSING
    faults.point("batch.chunked")


def _bind(session: Session, batch_id: str, *, model_digest: str) -> str:
    """Note the base model of a batch that has none; return the one that it has."""
    batch = _required(session, batch_id)
    if batch.base_model_digest is None:
        batch.base_model_digest = model_digest
    return batch.base_model_digest


def _record(
    session: Session,
    batch_id: str,
    first: int,
    chunk: _Chunk,
    file: FileRef,
    *,
    worked_seconds: float,
) -> None:
    """Have answers count that follow those which do."""
    batch = _required(session, batch_id)
    if batch.num_answered != first:
        raise BatchGoneError(f"Line {first} of batch {batch_id} is not the next one.")
    batches.put_file(session, batch_id, BatchFileKind.ANSWERS, first, file)
    batch.num_answered += len(chunk.lines)
    batch.num_failed += sum(line.is_error for line in chunk.lines)
    batch.input_tokens += sum(line.input_tokens for line in chunk.lines)
    batch.output_tokens += sum(line.output_tokens for line in chunk.lines)
    batch.next_byte = chunk.next_byte
    batch.worked_seconds = worked_seconds
    faults.point("batch.answered")


def _answers(session: Session, batch_id: str) -> list[FileRef]:
    return [row.file for row in batches.files_of(session, batch_id, BatchFileKind.ANSWERS)]


def _complete(session: Session, batch_id: str, outputs: Sequence[FileRef], *, at_ms: int) -> None:
    batch = _required(session, batch_id)
    batches.drop_files(session, batch_id, BatchFileKind.PART, BatchFileKind.ANSWERS)
    for index, output in enumerate(outputs):
        batches.put_file(session, batch_id, BatchFileKind.OUTPUT, index, output)
    batch.state = BatchState.COMPLETED
    batch.ended_at_ms = at_ms
    faults.point("batch.finish")


def _fail(session: Session, batch_id: str, error: BatchFailedError, *, at_ms: int) -> None:
    batch = _required(session, batch_id)
    batches.drop_files(session, batch_id, *BatchFileKind)
    batch.state = BatchState.FAILED
    batch.error_code, batch.error_message = error.fault.value, error.message
    batch.ended_at_ms = at_ms
    faults.point("batch.finish")
