"""The route of train steps; http-api.md section 10."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from server.api.deps import Account, ConfigDep, ServicesDep, body_of
from server.api.json_body import Parsed
from server.api.openapi import reads
from server.api.schemas.train_step import TrainStepBody
from server.services.training import TrainOrder

router = APIRouter(prefix="/v1/tuning", tags=["train_step"])


async def train_order(
    body: Annotated[Parsed[TrainStepBody], Depends(body_of(TrainStepBody, is_train_step=True))],
    config: ConfigDep,
) -> TrainOrder:
    """What is asked for; the body itself is not kept while the step waits."""
    return body.value.to_order(
        fingerprint=body.fingerprint,
        max_groups=config.max_groups,
        max_examples=config.max_train_examples,
    )


@router.post("/train_step", openapi_extra=reads(TrainStepBody))
async def train_step(
    account: Account, order: Annotated[TrainOrder, Depends(train_order)], services: ServicesDep
) -> Response:
    """Compute one gradient over all groups and update the finetune once."""
    answer = await services.training.train_step(account, order)
    return Response(answer, media_type="application/json")
