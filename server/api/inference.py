"""Routes of the inference skills; http-api.md section 13."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from contract.work import WorkClass
from server.api.deps import (
    Account,
    CallerLeft,
    ConfigDep,
    ServicesDep,
    body_of,
    json_answer,
)
from server.api.json_body import Parsed
from server.api.openapi import OF_ANSWERS, reads
from server.api.schemas.answers import (
    CaptionAnswer,
    DetectAnswer,
    PointAnswer,
    QueryAnswer,
    SegmentAnswer,
)
from server.api.schemas.inference import (
    AnswerBody,
    AnswerCaptionBody,
    AnswerDetectBody,
    AnswerPointBody,
    AnswerQueryBody,
    AnswerSegmentBody,
    to_order,
)

router = APIRouter(prefix="/v1", tags=["inference"])

QueryBody = Annotated[
    Parsed[AnswerQueryBody], Depends(body_of(AnswerQueryBody, work_class=WorkClass.INFERENCE))
]
CaptionBody = Annotated[
    Parsed[AnswerCaptionBody], Depends(body_of(AnswerCaptionBody, work_class=WorkClass.INFERENCE))
]
PointBody = Annotated[
    Parsed[AnswerPointBody], Depends(body_of(AnswerPointBody, work_class=WorkClass.INFERENCE))
]
DetectBody = Annotated[
    Parsed[AnswerDetectBody], Depends(body_of(AnswerDetectBody, work_class=WorkClass.INFERENCE))
]
SegmentBody = Annotated[
    Parsed[AnswerSegmentBody], Depends(body_of(AnswerSegmentBody, work_class=WorkClass.INFERENCE))
]


class Caller:
    """Who asks, and what every skill needs to answer."""

    def __init__(
        self, request: Request, account: Account, config: ConfigDep, services: ServicesDep
    ):
        self._request_id: str = request.state.request_id
        self._account = account
        self._config = config
        self._services = services

    async def answer(self, body: Parsed[Any], caller_left: asyncio.Future[None]) -> Response:
        """Answer one request."""
        value: AnswerBody = body.value
        order = to_order(
            value,
            fingerprint=body.fingerprint,
            max_generation_tokens=self._config.max_generation_tokens,
        )
        answered = await self._services.inference.answer(
            self._account, order, caller_left=caller_left
        )
        return json_answer(
            {
                **answered.output,
                "request_id": self._request_id,
                "finish_reason": answered.finish_reason.value,
                "metrics": {
                    "input_tokens": answered.input_tokens,
                    "output_tokens": answered.output_tokens,
                    "prefill_time_ms": answered.prefill_time_ms,
                    "decode_time_ms": answered.decode_time_ms,
                    "ttft_ms": answered.ttft_ms,
                },
            }
        )


CallerDep = Annotated[Caller, Depends()]


@router.post(
    "/query", response_model=QueryAnswer, openapi_extra=reads(AnswerQueryBody, *OF_ANSWERS)
)
async def query(caller: CallerDep, body: QueryBody, caller_left: CallerLeft) -> Response:
    """Answer a question, about an image or not."""
    return await caller.answer(body, caller_left)


@router.post(
    "/caption", response_model=CaptionAnswer, openapi_extra=reads(AnswerCaptionBody, *OF_ANSWERS)
)
async def caption(caller: CallerDep, body: CaptionBody, caller_left: CallerLeft) -> Response:
    """Describe an image."""
    return await caller.answer(body, caller_left)


@router.post(
    "/point", response_model=PointAnswer, openapi_extra=reads(AnswerPointBody, *OF_ANSWERS)
)
async def point(caller: CallerDep, body: PointBody, caller_left: CallerLeft) -> Response:
    """Point at every instance of an object."""
    return await caller.answer(body, caller_left)


@router.post(
    "/detect", response_model=DetectAnswer, openapi_extra=reads(AnswerDetectBody, *OF_ANSWERS)
)
async def detect(caller: CallerDep, body: DetectBody, caller_left: CallerLeft) -> Response:
    """Draw a box around every instance of an object."""
    return await caller.answer(body, caller_left)


@router.post(
    "/segment", response_model=SegmentAnswer, openapi_extra=reads(AnswerSegmentBody, *OF_ANSWERS)
)
async def segment(caller: CallerDep, body: SegmentBody, caller_left: CallerLeft) -> Response:
    """Outline an object."""
    return await caller.answer(body, caller_left)
