"""Routes of adapters, the form of December 2025 over the same finetunes; http-api.md section 17.

An adapter is a finetune and `adapter_id` its `finetune_id`; what either surface makes the other
sees. Rollouts and train steps have their own routes, which read `adapter_id` as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from contract.ids import NumberedCheckpoint, parse_ulid
from server.api.answers import adapter_item, numbered_checkpoint_item
from server.api.deps import Account, ServicesDep, body_of, json_answer
from server.api.json_body import Parsed
from server.api.making import create_finetune, save_checkpoint
from server.api.openapi import lists, reads, refuses
from server.api.pagination import PageDep, page_body
from server.api.schemas.answers.adapters import (
    AdapterCreated,
    AdapterItem,
    AdapterPage,
    NumberedItem,
    NumberedPage,
)
from server.api.schemas.answers.shapes import Nothing
from server.api.schemas.finetunes import CreateAdapterBody
from server.db.models import Finetune
from server.domain.errors import (
    BaseModelMismatchError,
    CheckpointNotFoundError,
    FinetuneNotFoundError,
    IdempotencyKeyReusedError,
    NoCheckpointError,
    OriginConflictError,
    RankConflictError,
    StorageFullError,
    ValidationFailedError,
)
from server.domain.pages import Page

router = APIRouter(prefix="/v1/tuning/adapters", tags=["adapters"])

CreateBody = Annotated[Parsed[CreateAdapterBody], Depends(body_of(CreateAdapterBody))]

T = TypeVar("T")


@router.post(
    "",
    response_model=AdapterCreated,
    openapi_extra=reads(
        CreateAdapterBody,
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
    """Create an adapter, or return the one of that name and rank."""
    path = "/v1/tuning/adapters"
    return await create_finetune(request, account, body, services, path=path, show=_created)


def _created(finetune: Finetune) -> dict[str, str]:
    return {"adapter_id": finetune.id}


@router.get("", response_model=AdapterPage, openapi_extra=lists())
async def list_adapters(account: Account, query: PageDep, services: ServicesDep) -> Response:
    """List adapters, oldest first."""
    page = await services.finetunes.list(
        account, after_ordinal=query.integer("ordinal", 0), limit=query.limit
    )
    return json_answer(_page_body("adapters", page, adapter_item))


@router.get(
    "/{adapter_id}", response_model=AdapterItem, openapi_extra=refuses(FinetuneNotFoundError)
)
async def get(account: Account, adapter_id: str, services: ServicesDep) -> Response:
    """Return one adapter, unwrapped."""
    return json_answer(adapter_item(await services.finetunes.get(account, adapter_id)))


@router.delete(
    "/{adapter_id}", response_model=Nothing, openapi_extra=refuses(FinetuneNotFoundError)
)
async def delete(account: Account, adapter_id: str, services: ServicesDep) -> Response:
    """Delete an adapter with its checkpoints."""
    await services.finetunes.delete(account, adapter_id)
    return json_answer({})


@router.post(
    "/{adapter_id}/checkpoint",
    response_model=NumberedItem,
    openapi_extra=refuses(
        FinetuneNotFoundError,
        NoCheckpointError,
        IdempotencyKeyReusedError,
        ValidationFailedError,
        StorageFullError,
    ),
)
async def save(
    request: Request, account: Account, adapter_id: str, services: ServicesDep
) -> Response:
    """Save the newest step; a body is ignored."""
    path = f"/v1/tuning/adapters/{parse_ulid(adapter_id)}/checkpoint"
    show = numbered_checkpoint_item
    return await save_checkpoint(request, account, adapter_id, services, path=path, show=show)


@router.get(
    "/{adapter_id}/checkpoints",
    response_model=NumberedPage,
    openapi_extra=lists(FinetuneNotFoundError),
)
async def list_checkpoints(
    account: Account, adapter_id: str, query: PageDep, services: ServicesDep
) -> Response:
    """List saved checkpoints, oldest first: a later save is one of a later step."""
    page = await services.checkpoints.list(
        account, adapter_id, after_step=query.integer("step", -1), limit=query.limit
    )
    return json_answer(_page_body("checkpoints", page, numbered_checkpoint_item))


@router.delete(
    "/{adapter_id}/checkpoints/{checkpoint_id:path}",
    response_model=Nothing,
    openapi_extra=refuses(FinetuneNotFoundError, CheckpointNotFoundError),
)
async def delete_checkpoint(
    account: Account, adapter_id: str, checkpoint_id: str, services: ServicesDep
) -> Response:
    """Delete a saved checkpoint; training is not touched."""
    number = _number_of(adapter_id, checkpoint_id)
    await services.checkpoints.delete_number(account, adapter_id, number)
    return json_answer({})


def _number_of(adapter_id: str, checkpoint_id: str) -> int:
    """Read `chk_001` or the full `{adapter_id}/chk_001`; an encoded slash has become a plain one.

    Raises:
        CheckpointNotFoundError: It has another shape, or is one of another adapter.
    """
    text = checkpoint_id if "/" in checkpoint_id else f"{adapter_id}/{checkpoint_id}"
    named = NumberedCheckpoint.parse(text)
    if named is None or named.finetune_id != parse_ulid(adapter_id):
        raise CheckpointNotFoundError(
            "Checkpoint not found: the path should name one of this adapter, such as chk_001."
        )
    return named.number


def _page_body(name: str, page: Page[T], show: Callable[[T], dict[str, Any]]) -> dict[str, Any]:
    """A list as it was then: `next_cursor` alone says whether more follows."""
    body = page_body(name, page, show)
    del body["has_more"]
    return body
