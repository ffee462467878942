"""Routes of batches; http-api.md section 16."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from contract.ids import MODEL_PREFIX as BASE_MODEL
from contract.work import WorkClass
from server.api.deps import Account, ServicesDep, body_of, json_answer
from server.api.files import FILES_PATH
from server.api.json_body import Parsed, receive_body
from server.api.openapi import lists, reads, reads_bytes, refuses
from server.api.own_url import own_url
from server.api.pagination import Cursor, Limit, PageQuery, page_body, page_query, query_integer
from server.api.schemas.answers.batches import (
    BatchBegun,
    BatchItem,
    BatchPage,
    PartKept,
    UploadBegun,
)
from server.api.schemas.answers.shapes import Done
from server.api.schemas.batch import CompleteBody
from server.db.models import BatchState
from server.domain.clock import utc_text
from server.domain.errors import (
    BatchNotFoundError,
    CheckpointNotFoundError,
    FinetuneNotFoundError,
    InvalidModelError,
    LimitExceededError,
    StorageFullError,
    ValidationFailedError,
)
from server.services.batches.results import ShownBatch

router = APIRouter(prefix="/v1/batch", tags=["batch"])

DEFAULT_LIMIT = 50
MAX_PART_NUMBER = 10_000
NEWEST = 2**31 - 1
"""An ordinal behind those of all batches."""

Body = Annotated[Parsed[CompleteBody], Depends(body_of(CompleteBody))]
Action = Annotated[str | None, Query()]
UploadId = Annotated[str | None, Query(alias="uploadId")]
PartNumber = Annotated[str | None, Query(alias="partNumber")]


def batch_page_query(limit: Limit = None, cursor: Cursor = None) -> PageQuery:
    """Read `limit`, 50 if it was not sent, and `cursor`."""
    return page_query(limit, cursor, default_limit=DEFAULT_LIMIT)


@router.post(
    "", response_model=UploadBegun, openapi_extra=refuses(ValidationFailedError, StorageFullError)
)
async def create(account: Account, services: ServicesDep, action: Action = None) -> Response:
    """Begin an upload: `action=mpu-create`."""
    _require_action(action, "mpu-create")
    batch = await services.batches.uploads.create(account)
    key = f"requests/{account}/{batch.id}.jsonl"
    return json_answer({"fileId": batch.id, "uploadId": batch.upload_id, "key": key})


@router.put(
    "/{file_id}",
    response_model=PartKept,
    openapi_extra=reads_bytes(BatchNotFoundError, ValidationFailedError, LimitExceededError),
)
async def upload_part(
    request: Request,
    account: Account,
    file_id: str,
    services: ServicesDep,
    action: Action = None,
    upload_id: UploadId = None,
    part_number: PartNumber = None,
) -> Response:
    """Upload a part, in the place of one with the same number: `action=mpu-uploadpart`."""
    _require_action(action, "mpu-uploadpart")
    upload_id, number = _sent(upload_id, "uploadId"), _part_number(part_number)
    length = request.headers.get("content-length", "")
    most = services.config.max_batch_part_bytes
    announced = int(length) if length.isdecimal() and int(length) <= most else 0
    await services.batches.uploads.require_open(account, file_id, upload_id, number, announced)
    body = await receive_body(
        request,
        services.admission.bodies,
        max_bytes=most,
        within=services.config.queue_seconds(WorkClass.BATCH),
    )
    try:
        etag = await services.batches.uploads.put_part(account, file_id, upload_id, number, body)
    finally:
        body.release()
    return json_answer({"etag": etag, "partNumber": number})


@router.post(
    "/{file_id}",
    response_model=BatchBegun,
    openapi_extra=reads(
        CompleteBody,
        BatchNotFoundError,
        InvalidModelError,
        FinetuneNotFoundError,
        CheckpointNotFoundError,
    ),
)
async def complete(
    account: Account,
    file_id: str,
    services: ServicesDep,
    body: Body,
    action: Action = None,
    upload_id: UploadId = None,
) -> Response:
    """Make a batch of an upload: `action=mpu-complete`; again, the same batch."""
    _require_action(action, "mpu-complete")
    batch = await services.batches.uploads.complete(
        account,
        file_id,
        _sent(upload_id, "uploadId"),
        body.value.listed(),
        body.value.model_name(),
    )
    return json_answer({"id": batch.id, "status": batch.state, "size": batch.num_bytes})


@router.delete(
    "/{file_id}",
    response_model=Done,
    openapi_extra=refuses(BatchNotFoundError, ValidationFailedError),
)
async def abort(
    account: Account,
    file_id: str,
    services: ServicesDep,
    action: Action = None,
    upload_id: UploadId = None,
) -> Response:
    """Forget an upload: `action=mpu-abort`; again, too."""
    _require_action(action, "mpu-abort")
    await services.batches.uploads.abort(account, file_id, _sent(upload_id, "uploadId"))
    return json_answer({"ok": True})


@router.get("", response_model=BatchPage, openapi_extra=lists())
async def list_batches(
    request: Request,
    account: Account,
    services: ServicesDep,
    query: Annotated[PageQuery, Depends(batch_page_query)],
) -> Response:
    """List batches, newest first."""
    page = await services.batches.results.list(
        account, before_ordinal=query.integer("ordinal", NEWEST), limit=query.limit
    )
    url = own_url(request, services.config)
    return json_answer(page_body("batches", page, lambda shown: batch_item(shown, url)))


@router.get("/{file_id}", response_model=BatchItem, openapi_extra=refuses(BatchNotFoundError))
async def get(request: Request, account: Account, file_id: str, services: ServicesDep) -> Response:
    """Return a batch, with new links to its results."""
    shown = await services.batches.results.get(account, file_id)
    return json_answer(batch_item(shown, own_url(request, services.config)))


def batch_item(shown: ShownBatch, url: str) -> dict[str, Any]:
    """A batch on the wire."""
    batch = shown.batch
    item: dict[str, Any] = {
        "id": batch.id,
        "status": batch.state,
        "model": batch.model or BASE_MODEL,
        "progress": {
            "total": batch.num_lines,
            "completed": batch.num_answered - batch.num_failed,
            "failed": batch.num_failed,
        },
        "created_at": utc_text(batch.created_at_ms),
    }
    if batch.state != BatchState.CHUNKING:
        item["usage"] = {
            "input_tokens": batch.input_tokens,
            "output_tokens": batch.output_tokens,
        }
    if batch.state == BatchState.COMPLETED:
        item["outputs"] = [
            {"index": index, "url": f"{url}{FILES_PATH}{token}"}
            for index, token in enumerate(shown.tokens)
        ]
    if batch.ended_at_ms is not None and shown.expires_at_ms is not None:
        item["completed_at"] = utc_text(batch.ended_at_ms)
        item["expires_at"] = utc_text(shown.expires_at_ms)
    if batch.error_code is not None:
        item["error"] = {"code": batch.error_code, "message": batch.error_message}
    return item


def _require_action(sent: str | None, wanted: str) -> None:
    if sent != wanted:
        raise ValidationFailedError(
            f"action: should be {wanted} for this method and address.", loc=("query", "action")
        )


def _sent(value: str | None, name: str) -> str:
    if not value:
        raise ValidationFailedError(f"{name}: Field required.", loc=("query", name), type="missing")
    return value


def _part_number(text: str | None) -> int:
    number = query_integer(_sent(text, "partNumber"), "partNumber")
    if not 1 <= number <= MAX_PART_NUMBER:
        raise ValidationFailedError(
            f"partNumber: should be between 1 and {MAX_PART_NUMBER}, got {number}.",
            loc=("query", "partNumber"),
        )
    return number
