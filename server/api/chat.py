"""The route of chat completions; http-api.md section 14."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response
from ulid import ULID

from contract.ids import MODEL_PREFIX
from contract.work import WorkClass
from server.api.answering import Caller
from server.api.chat_events import ChatForm
from server.api.deps import CallerLeft, body_of, json_answer
from server.api.json_body import Parsed
from server.api.openapi import OF_ANSWERS, reads, streams
from server.api.schemas.answers.chat import ChatCompletion
from server.api.schemas.chat import ChatBody
from server.domain.clock import now_ms
from server.domain.errors import UnsupportedParameterError

router = APIRouter(prefix="/v1/chat", tags=["chat"])

EXAMPLE = (
    'data: {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "3"},'
    ' "finish_reason": null}], ...}\n\n'
    "data: [DONE]\n\n"
)

CompletionBody = Annotated[
    Parsed[ChatBody], Depends(body_of(ChatBody, work_class=WorkClass.INFERENCE))
]
CallerDep = Annotated[Caller, Depends()]


@router.post(
    "/completions",
    response_model=ChatCompletion,
    openapi_extra=reads(ChatBody, UnsupportedParameterError, *OF_ANSWERS) | streams(EXAMPLE),
)
async def complete(caller: CallerDep, body: CompletionBody, caller_left: CallerLeft) -> Response:
    """Answer the last message of a conversation, whose user may show several images."""
    chat = body.value
    order = await body.made_of(
        lambda value: value.to_order(
            fingerprint=body.fingerprint,
            received_at=body.stored.received_at,
            max_generation_tokens=caller.max_generation_tokens,
        )
    )
    form = ChatForm(
        completion_id=f"chatcmpl-{ULID()}",
        created=now_ms() // 1000,
        model=chat.model or MODEL_PREFIX,
        includes_usage=chat.includes_usage,
    )
    if chat.stream:
        return caller.stream(order, form, caller_left, has_reasoning=bool(chat.reasoning))
    return json_answer(form.whole(await caller.answer(order, caller_left)))
