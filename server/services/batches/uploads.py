"""Uploads: a file comes in parts, whose rows and files appear together, and becomes a batch."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session
from ulid import ULID

from contract import faults
from contract.engine import FileRef
from contract.ids import CheckpointName, parse_ulid
from server.batch_files import BatchFiles
from server.bodies.stored import StoredBody
from server.db import batches
from server.db.connection import Database
from server.db.models import Batch, BatchFileKind, BatchState
from server.domain.clock import NowMs, now_ms
from server.domain.errors import (
    BatchNotFoundError,
    InvalidModelError,
    LimitExceededError,
    ValidationFailedError,
)
from server.domain.seeds import SeedSource
from server.services.batches.cleanup import BatchCleanup
from server.services.batches.runner import BatchRunner
from server.services.models import Models
from server.services.quotas import Quotas


@dataclass(frozen=True, kw_only=True)
class PartOfUpload:
    """A part as its caller lists it; `etag` is what we answered when it came."""

    number: int
    etag: str


class BatchUploads:
    """Takes batches in.

    Args:
        max_bytes: Of one batch.
    """

    def __init__(
        self,
        *,
        database: Database,
        files: BatchFiles,
        cleanup: BatchCleanup,
        runner: BatchRunner,
        models: Models,
        quotas: Quotas,
        seeds: SeedSource,
        max_bytes: int,
        now: NowMs = now_ms,
    ):
        self._database = database
        self._files = files
        self._cleanup = cleanup
        self._runner = runner
        self._models = models
        self._quotas = quotas
        self._seeds = seeds
        self._max_bytes = max_bytes
        self._now = now

    async def create(self, account_id: str) -> Batch:
        """Begin an upload."""
        return await self._database.write(_create, account_id, self._seeds, at_ms=self._now())

    async def require_open(
        self, account_id: str, batch_id: str, upload_id: str, number: int, num_bytes: int
    ) -> None:
        """Refuse a part before it is read, as far as that is known.

        Raises as `put_part`.
        """
        await self._database.read(
            _open_upload, account_id, batch_id, upload_id, number, num_bytes, self._max_bytes
        )

    async def put_part(
        self, account_id: str, batch_id: str, upload_id: str, number: int, body: StoredBody
    ) -> str:
        """Keep a part, in the place of one with the same number; return its etag.

        Raises:
            BatchNotFoundError: There is no such upload, or no longer.
            ValidationFailedError: It was completed.
            LimitExceededError: All parts together would be too much.
            StorageFullError: The disk cannot take it.
            ForbiddenError: The key allows its account fewer bytes.
        """
        upload = (account_id, batch_id, upload_id, number, body.num_bytes, self._max_bytes)
        await self._quotas.require_bytes(account_id, body.num_bytes)
        batch = await self._database.read(_open_upload, *upload)
        path = self._files.new_part(batch.id, number)
        try:
            with self._files.hold(path):
                file = await self._files.write(
                    path, lambda: body.blocks(0, body.num_bytes), body.num_bytes
                )
                was_there = await self._database.write(_put_part, *upload, file=file)
        except BaseException:
            self._cleanup.sweep_soon(batch.id)
            raise
        if was_there:
            self._cleanup.sweep_soon(batch.id)
        return file.digest

    async def complete(
        self,
        account_id: str,
        batch_id: str,
        upload_id: str,
        parts: Sequence[PartOfUpload],
        model: str | None,
    ) -> Batch:
        """Make a batch of an upload; again, return the same batch as it is now.

        Raises:
            BatchNotFoundError: There is no such upload, or no longer.
            ValidationFailedError: The parts are not those that came.
            InvalidModelError: The model is neither the base model nor a checkpoint.
            FinetuneNotFoundError: Its finetune does not exist.
            CheckpointNotFoundError: It is not saved.
        """
        batch = await self._database.read(_upload, account_id, batch_id, upload_id)
        if batch.state == BatchState.UPLOADING:
            await self._require_model(account_id, model)
            batch = await self._database.write(
                _complete, account_id, batch_id, upload_id, parts, model
            )
            self._runner.wake()
        return batch

    async def abort(self, account_id: str, batch_id: str, upload_id: str) -> None:
        """Forget an upload; again, too.

        Raises:
            BatchNotFoundError: There is no such upload.
            ValidationFailedError: It was completed.
        """
        found = await self._database.write(_abort, account_id, batch_id, upload_id)
        self._cleanup.sweep_soon(found)

    async def _require_model(self, account_id: str, model: str | None) -> None:
        """Refuse a model that can never answer; what is loaded may not be known yet."""
        if self._models.is_base(model):
            return
        assert model is not None, "no model is the base model"
        if CheckpointName.parse(model) is not None:
            await self._models.resolve(account_id, model)
        elif self._models.is_known:
            raise InvalidModelError(
                "model: should be left out for the base model, or name a saved checkpoint as"
                " {base}/{finetune_id}@{step}.",
                loc=("body", "model"),
            )


def _create(session: Session, account_id: str, seeds: SeedSource, *, at_ms: int) -> Batch:
    batch = Batch(
        id=str(ULID()),
        account_id=account_id,
        upload_id=str(ULID()),
        state=BatchState.UPLOADING,
        seed=0,
        num_bytes=0,
        num_lines=0,
        num_answered=0,
        num_failed=0,
        next_byte=0,
        input_tokens=0,
        output_tokens=0,
        worked_seconds=0.0,
        created_at_ms=at_ms,
    )
    session.add(batch)
    session.flush()
    batch.seed = seeds.batch_seed(batch.ordinal)
    return batch


def _upload(
    session: Session,
    account_id: str,
    batch_id: str,
    upload_id: str,
    *,
    may_be_removed: bool = False,
) -> Batch:
    parsed = parse_ulid(batch_id)
    batch = parsed and batches.find(session, account_id, parsed)
    is_there = batch and (may_be_removed or batch.state != BatchState.REMOVED)
    if not batch or not is_there or not _is_same(batch.upload_id, upload_id):
        raise BatchNotFoundError(
            "There is no such upload. It may have been aborted, or not completed in time; begin a"
            " new one with action=mpu-create."
        )
    return batch


def _is_same(known: str, sent: str) -> bool:
    return hmac.compare_digest(known, sent.upper().encode("ascii", "replace").decode())


def _open_upload(
    session: Session,
    account_id: str,
    batch_id: str,
    upload_id: str,
    number: int,
    num_bytes: int,
    max_bytes: int,
) -> Batch:
    batch = _upload(session, account_id, batch_id, upload_id)
    if batch.state != BatchState.UPLOADING:
        raise _completed()
    total = batches.total_bytes(session, batch.id, but_number=number) + num_bytes
    if total > max_bytes:
        raise LimitExceededError(
            f"With this part the batch would have {total} bytes; it may have {max_bytes}. Send"
            " several batches.",
            loc=("body",),
        )
    return batch


def _put_part(
    session: Session,
    account_id: str,
    batch_id: str,
    upload_id: str,
    number: int,
    num_bytes: int,
    max_bytes: int,
    *,
    file: FileRef,
) -> bool:
    batch = _open_upload(session, account_id, batch_id, upload_id, number, num_bytes, max_bytes)
    was_there = batches.put_file(session, batch.id, BatchFileKind.PART, number, file)
    faults.point("batch.part")
    return was_there


def _complete(
    session: Session,
    account_id: str,
    batch_id: str,
    upload_id: str,
    parts: Sequence[PartOfUpload],
    model: str | None,
) -> Batch:
    batch = _upload(session, account_id, batch_id, upload_id)
    if batch.state != BatchState.UPLOADING:  # another call like this one was faster
        return batch
    stored = batches.files_of(session, batch.id, BatchFileKind.PART)
    _require_all({part.number: part.digest for part in stored}, parts)
    batch.num_bytes = sum(part.num_bytes for part in stored)
    batch.model = model or None
    batch.state = BatchState.CHUNKING
    faults.point("batch.complete")
    return batch


def _require_all(stored: dict[int, str], listed: Sequence[PartOfUpload]) -> None:
    """Refuse a list that is not of exactly the parts that came."""

    def refuse(sentence: str, index: int | None = None, field: str = "partNumber") -> None:
        loc = ("body", "parts") if index is None else ("body", "parts", index, field)
        raise ValidationFailedError(sentence, loc=loc)

    seen: set[int] = set()
    for index, part in enumerate(listed):
        if part.number in seen:
            refuse(f"Part {part.number} is listed twice.", index)
        seen.add(part.number)
        if part.number not in stored:
            refuse(f"Part {part.number} was not uploaded.", index)
        if _bare(part.etag) != stored[part.number]:
            refuse(f"Part {part.number} has another etag; upload it again.", index, "etag")
    if left_out := sorted(stored.keys() - seen):
        refuse(f"Part {left_out[0]} was uploaded and is not listed; list every part.")
    if not listed:
        refuse("No part is listed; upload at least one.")


def _bare(etag: str) -> str:
    """An etag without quotation marks and without the mark of a weak one."""
    return etag.strip().removeprefix("W/").strip('"').lower()


def _abort(session: Session, account_id: str, batch_id: str, upload_id: str) -> str:
    batch = _upload(session, account_id, batch_id, upload_id, may_be_removed=True)
    if batch.state not in (BatchState.UPLOADING, BatchState.REMOVED):
        raise _completed()
    batches.remove(session, batch)
    faults.point("batch.remove")
    return batch.id


def _completed() -> ValidationFailedError:
    return ValidationFailedError(
        "The upload was completed and is a batch now; it can no longer be changed.",
        loc=("path", "file_id"),
    )
