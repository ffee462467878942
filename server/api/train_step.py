"""The route of train steps; http-api.md sections 10 and 17."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from contract import faults
from contract.work import WorkClass
from server.api.deps import Account, ConfigDep, ServicesDep, body_of
from server.api.json_body import Parsed
from server.api.openapi import OF_PICTURES, OF_WORK, reads
from server.api.resends import DeliveryDep, keyed_call, watched_answer
from server.api.schemas.answers.shapes import Nothing
from server.api.schemas.answers.train_step import TrainStepAnswer
from server.api.schemas.train_step import TrainStepBody
from server.domain.errors import (
    BaseModelMismatchError,
    FinetuneNotFoundError,
    IdempotencyKeyReusedError,
    StepConflictError,
    UnknownSkillError,
)
from server.services.train_order import HeldOrder

router = APIRouter(prefix="/v1/tuning", tags=["train_step"])

TrainBody = Annotated[
    Parsed[TrainStepBody], Depends(body_of(TrainStepBody, work_class=WorkClass.TRAINING))
]


_DONE = b"{}"
"""The whole answer of December 2025; what a step did is kept all the same, with its metrics."""


@router.post(
    "/train_step",
    response_model=TrainStepAnswer | Nothing,
    openapi_extra=reads(
        TrainStepBody,
        FinetuneNotFoundError,
        BaseModelMismatchError,
        IdempotencyKeyReusedError,
        StepConflictError,
        UnknownSkillError,
        *OF_PICTURES,
        *OF_WORK,
    ),
)
async def train_step(
    request: Request,
    account: Account,
    body: TrainBody,
    delivery: DeliveryDep,
    config: ConfigDep,
    services: ServicesDep,
) -> Response:
    """Compute one gradient over all groups and update the finetune once."""
    faults.point("step.received")
    is_adapters_form = body.value.is_adapters_form  # the value is given up with the order
    keyed = keyed_call(
        request,
        account,
        "/v1/tuning/train_step",
        fingerprint=body.fingerprint.hex(),
        field=body.value.idempotency_key,
    )
    held = HeldOrder(
        await body.ordered(
            lambda value: value.to_order(
                fingerprint=body.fingerprint,
                received_at=body.stored.received_at,
                keyed=keyed,
                max_groups=config.max_groups,
                max_examples=config.max_train_examples,
                default_options=config.train_options.to_contract(),
            )
        ),
        body.release,
    )
    answer = await services.training.train_step(account, held, delivery)
    shown = _DONE if is_adapters_form else answer.body
    return watched_answer(request, shown, delivery, is_replayed=answer.is_replayed)
