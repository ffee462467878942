"""The route of rollouts; http-api.md sections 8 and 17."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from contract.codec import to_plain
from contract.engine import RolloutsMade
from contract.work import WorkClass
from server.api.answers import in_boxes
from server.api.deps import (
    Account,
    CallerLeft,
    ConfigDep,
    ServicesDep,
    answer_with_body,
    body_of,
)
from server.api.json_body import Parsed
from server.api.openapi import OF_PICTURES, OF_WORK, reads
from server.api.schemas.answers.rollouts import RolloutsAnswer
from server.api.schemas.rollouts import RolloutsBody
from server.domain.errors import BaseModelMismatchError, FinetuneNotFoundError, UnknownSkillError

router = APIRouter(prefix="/v1/tuning", tags=["rollouts"])

MakeBody = Annotated[
    Parsed[RolloutsBody], Depends(body_of(RolloutsBody, work_class=WorkClass.ROLLOUTS))
]


@router.post(
    "/rollouts",
    response_model=RolloutsAnswer,
    openapi_extra=reads(
        RolloutsBody,
        FinetuneNotFoundError,
        BaseModelMismatchError,
        UnknownSkillError,
        *OF_PICTURES,
        *OF_WORK,
    ),
)
async def make_rollouts(
    account: Account,
    body: MakeBody,
    caller_left: CallerLeft,
    config: ConfigDep,
    services: ServicesDep,
) -> Response:
    """Sample answers to one request from the newest weights of a finetune."""
    order = await body.made_of(
        lambda value: value.to_order(
            fingerprint=body.fingerprint,
            max_generation_tokens=config.max_generation_tokens,
            received_at=body.stored.received_at,
        )
    )
    made = await services.rollouts.make_rollouts(account, order, caller_left=caller_left)
    return await answer_with_body(_answer(body, made), body)


def _answer(body: Parsed[RolloutsBody], made: RolloutsMade) -> dict[str, Any]:
    echo = {**body.tree, "num_rollouts": body.value.effective_num_rollouts}
    if body.value.ground_truth is None:
        echo.pop("ground_truth", None)
    rollouts = to_plain(made.rollouts)
    return {
        "request": echo,
        "rollouts": [in_boxes(r) for r in rollouts] if body.value.is_adapters_form else rollouts,
        "rewards": None if made.rewards is None else list(made.rewards),
    }
