"""Routes of models; http-api.md section 15."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from server.api.deps import Account, ServicesDep, json_answer
from server.api.openapi import refuses
from server.api.schemas.answers.chat import ModelItem, ModelList
from server.domain.errors import (
    CheckpointNotFoundError,
    FinetuneNotFoundError,
    ModelNotFoundError,
)
from server.services.models import Model

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", response_model=ModelList, openapi_extra=refuses())
async def list_models(account: Account, services: ServicesDep) -> Response:
    """List the base model under all its names, then saved checkpoints, newest first."""
    models = await services.models.list(account)
    return json_answer({"object": "list", "data": [_item(model) for model in models]})


@router.get(
    "/{model_id:path}",
    response_model=ModelItem,
    openapi_extra=refuses(ModelNotFoundError, FinetuneNotFoundError, CheckpointNotFoundError),
)
async def get_model(account: Account, model_id: str, services: ServicesDep) -> Response:
    """Return one model; its id may contain slashes."""
    return json_answer(_item(await services.models.find(account, model_id)))


def _item(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created_at_ms // 1000,
        "owned_by": model.owned_by,
    }
