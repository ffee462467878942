"""The route of train steps; http-api.md section 10."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from contract.work import WorkClass
from server.api.deps import Account, ConfigDep, ServicesDep, body_of
from server.api.json_body import Parsed
from server.api.openapi import reads
from server.api.schemas.train_step import TrainStepBody

router = APIRouter(prefix="/v1/tuning", tags=["train_step"])

TrainBody = Annotated[
    Parsed[TrainStepBody], Depends(body_of(TrainStepBody, work_class=WorkClass.TRAINING))
]


@router.post("/train_step", openapi_extra=reads(TrainStepBody))
async def train_step(
    account: Account, body: TrainBody, config: ConfigDep, services: ServicesDep
) -> Response:
    """Compute one gradient over all groups and update the finetune once."""
    order = await body.ordered(
        lambda value: value.to_order(
            fingerprint=body.fingerprint,
            max_groups=config.max_groups,
            max_examples=config.max_train_examples,
            default_options=config.train_options.to_contract(),
        )
    )
    answer = await services.training.train_step(account, order)
    return Response(answer, media_type="application/json")
