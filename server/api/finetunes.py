"""Routes of finetunes; http-api.md section 7."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server.api.answers import finetune_details, finetune_item
from server.api.deps import Account, ServicesDep, body_of, json_answer
from server.api.json_body import Parsed
from server.api.making import create_finetune
from server.api.openapi import lists, reads, refuses
from server.api.pagination import PageDep, page_body
from server.api.schemas.answers.finetunes import FinetuneCreated, FinetuneFound, FinetunePage
from server.api.schemas.answers.shapes import Done
from server.api.schemas.finetunes import CreateFinetuneBody
from server.db.models import Finetune
from server.domain.errors import (
    BaseModelMismatchError,
    CheckpointNotFoundError,
    FinetuneNotFoundError,
    IdempotencyKeyReusedError,
    OriginConflictError,
    RankConflictError,
)

router = APIRouter(prefix="/v1/tuning/finetunes", tags=["finetunes"])

CreateBody = Annotated[Parsed[CreateFinetuneBody], Depends(body_of(CreateFinetuneBody))]


@router.post(
    "",
    response_model=FinetuneCreated,
    openapi_extra=reads(
        CreateFinetuneBody,
        FinetuneNotFoundError,
        CheckpointNotFoundError,
        RankConflictError,
        OriginConflictError,
        BaseModelMismatchError,
        IdempotencyKeyReusedError,
    ),
)
async def create(
    request: Request, account: Account, body: CreateBody, services: ServicesDep
) -> Response:
    """Create a finetune, or return the one of that name and rank."""
    path = "/v1/tuning/finetunes"
    return await create_finetune(request, account, body, services, path=path, show=_created)


def _created(finetune: Finetune) -> dict[str, str]:
    return {"finetune_id": finetune.id}


@router.get("", response_model=FinetunePage, openapi_extra=lists())
async def list_finetunes(account: Account, query: PageDep, services: ServicesDep) -> Response:
    """List finetunes, oldest first."""
    page = await services.finetunes.list(
        account, after_ordinal=query.integer("ordinal", 0), limit=query.limit
    )
    return json_answer(page_body("finetunes", page, finetune_item))


@router.get(
    "/{finetune_id}",
    response_model=FinetuneFound,
    openapi_extra=refuses(FinetuneNotFoundError),
)
async def get(account: Account, finetune_id: str, services: ServicesDep) -> Response:
    """Return one finetune, its step and its base model."""
    finetune = await services.finetunes.get(account, finetune_id)
    return json_answer({"finetune": finetune_details(finetune)})


@router.delete("/{finetune_id}", response_model=Done, openapi_extra=refuses(FinetuneNotFoundError))
async def delete(account: Account, finetune_id: str, services: ServicesDep) -> Response:
    """Delete a finetune with its checkpoints."""
    await services.finetunes.delete(account, finetune_id)
    return json_answer({"ok": True})
