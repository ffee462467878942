"""Routes of the inference skills; http-api.md section 13."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import Response

from contract.work import WorkClass
from server.api.answer_events import SegmentEvents, TextEvents, answer_facts
from server.api.answering import Caller
from server.api.deps import CallerLeft, body_of, json_answer
from server.api.event_stream import EventForm
from server.api.json_body import Parsed
from server.api.openapi import OF_ANSWERS, reads, streams
from server.api.schemas.answers.inference import (
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


TEXT_EXAMPLE = (
    'data: {"chunk": "A scene", "completed": false, "request_id": "..."}\n\n'
    'data: {"chunk": "", "completed": true, "request_id": "...", ...}\n\n'
)
SEGMENT_EXAMPLE = (
    'data: {"type": "bbox", "bbox": {...}}\n\n'
    'data: {"type": "path_delta", "chunk": "M 0 0.76", "completed": false}\n\n'
    'data: {"type": "final", "path": "...", "bbox": {...}, "completed": true}\n\n'
)

CallerDep = Annotated[Caller, Depends()]


async def answer(caller: Caller, body: Parsed[Any], caller_left: asyncio.Future[None]) -> Response:
    """Answer one request, as a stream if it asks for one."""
    value: AnswerBody = body.value
    order = to_order(
        value,
        fingerprint=body.fingerprint,
        received_at=body.stored.received_at,
        max_generation_tokens=caller.max_generation_tokens,
    )
    form = _events(value, caller)
    if form is not None:
        return caller.stream(order, form, caller_left)
    answered = await caller.answer(order, caller_left)
    return json_answer({**answered.output, **answer_facts(answered, caller.request_id)})


def _events(body: AnswerBody, caller: Caller) -> EventForm | None:
    """The form of the stream that a request asks for; points and boxes have none."""
    if isinstance(body, AnswerPointBody | AnswerDetectBody) or not body.stream:
        return None
    if isinstance(body, AnswerSegmentBody):
        return SegmentEvents()
    return TextEvents(request_id=caller.request_id, account_id=caller.account_id)


@router.post(
    "/query",
    response_model=QueryAnswer,
    openapi_extra=reads(AnswerQueryBody, *OF_ANSWERS) | streams(TEXT_EXAMPLE),
)
async def query(caller: CallerDep, body: QueryBody, caller_left: CallerLeft) -> Response:
    """Answer a question, about an image or not."""
    return await answer(caller, body, caller_left)


@router.post(
    "/caption",
    response_model=CaptionAnswer,
    openapi_extra=reads(AnswerCaptionBody, *OF_ANSWERS) | streams(TEXT_EXAMPLE),
)
async def caption(caller: CallerDep, body: CaptionBody, caller_left: CallerLeft) -> Response:
    """Describe an image."""
    return await answer(caller, body, caller_left)


@router.post(
    "/point", response_model=PointAnswer, openapi_extra=reads(AnswerPointBody, *OF_ANSWERS)
)
async def point(caller: CallerDep, body: PointBody, caller_left: CallerLeft) -> Response:
    """Point at every instance of an object."""
    return await answer(caller, body, caller_left)


@router.post(
    "/detect", response_model=DetectAnswer, openapi_extra=reads(AnswerDetectBody, *OF_ANSWERS)
)
async def detect(caller: CallerDep, body: DetectBody, caller_left: CallerLeft) -> Response:
    """Draw a box around every instance of an object."""
    return await answer(caller, body, caller_left)


@router.post(
    "/segment",
    response_model=SegmentAnswer,
    openapi_extra=reads(AnswerSegmentBody, *OF_ANSWERS) | streams(SEGMENT_EXAMPLE),
)
async def segment(caller: CallerDep, body: SegmentBody, caller_left: CallerLeft) -> Response:
    """Outline an object."""
    return await answer(caller, body, caller_left)
