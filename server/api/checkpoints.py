"""Routes of checkpoints; http-api.md section 12."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from contract.ids import parse_ulid
from server.api.answers import checkpoint_item
from server.api.deps import Account, ServicesDep, json_answer
from server.api.files import FILES_PATH
from server.api.making import save_checkpoint
from server.api.openapi import OF_WORK, lists, refuses
from server.api.own_url import own_url
from server.api.pagination import PageDep, page_body
from server.api.schemas.answers.checkpoints import CheckpointPage, CheckpointSaved, DownloadLink
from server.api.schemas.answers.shapes import Done
from server.db.models import Checkpoint
from server.domain.errors import (
    BaseModelMismatchError,
    CheckpointDeletedError,
    CheckpointNotFoundError,
    FinetuneNotFoundError,
    IdempotencyKeyReusedError,
    NoCheckpointError,
    StorageFullError,
    ValidationFailedError,
)
from server.domain.rules import MAX_STEP

router = APIRouter(prefix="/v1/tuning/finetunes/{finetune_id}/checkpoints", tags=["checkpoints"])

_MAX_DIGITS = 15


@router.post(
    "/save",
    response_model=CheckpointSaved,
    openapi_extra=refuses(
        FinetuneNotFoundError,
        NoCheckpointError,
        IdempotencyKeyReusedError,
        ValidationFailedError,
        StorageFullError,
    ),
)
async def save(
    request: Request, account: Account, finetune_id: str, services: ServicesDep
) -> Response:
    """Save the newest step; a body is ignored."""
    path = f"/v1/tuning/finetunes/{parse_ulid(finetune_id)}/checkpoints/save"
    return await save_checkpoint(request, account, finetune_id, services, path=path, show=_saved)


def _saved(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"ok": True, "checkpoint": checkpoint_item(checkpoint)}


@router.get("", response_model=CheckpointPage, openapi_extra=lists(FinetuneNotFoundError))
async def list_checkpoints(
    account: Account, finetune_id: str, query: PageDep, services: ServicesDep
) -> Response:
    """List saved steps, ascending."""
    page = await services.checkpoints.list(
        account, finetune_id, after_step=query.integer("step", -1), limit=query.limit
    )
    return json_answer(page_body("checkpoints", page, checkpoint_item))


@router.get(
    "/{step}/download",
    response_model=DownloadLink,
    openapi_extra=refuses(
        FinetuneNotFoundError,
        CheckpointNotFoundError,
        CheckpointDeletedError,
        BaseModelMismatchError,
        *OF_WORK,
    ),
)
async def download(
    request: Request, account: Account, finetune_id: str, step: str, services: ServicesDep
) -> Response:
    """Return a link to the exchange file of a saved step."""
    link = await services.downloads.link(account, finetune_id, parse_step(step))
    return json_answer(
        {
            "url": f"{own_url(request, services.config)}{FILES_PATH}{link.token}",
            "expires_in": link.expires_in_seconds,
        }
    )


@router.delete(
    "/{step}",
    response_model=Done,
    openapi_extra=refuses(FinetuneNotFoundError, CheckpointNotFoundError),
)
async def delete(account: Account, finetune_id: str, step: str, services: ServicesDep) -> Response:
    """Delete a saved step; training is not touched."""
    await services.checkpoints.delete(account, finetune_id, parse_step(step))
    return json_answer({"ok": True})


def parse_step(text: str) -> int:
    """Return the step of a path.

    Raises:
        CheckpointNotFoundError: It is not a number, so nothing was ever saved under it.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise CheckpointNotFoundError("Checkpoint not found: the step should be a number.")
    return min(int(text), MAX_STEP)
