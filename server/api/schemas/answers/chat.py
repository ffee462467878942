"""Answers in the form of OpenAI: chat and models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.api.schemas.answers.shapes import ULID, WHEN, Count, Shape, like


class ChatMessage(Shape):
    role: Literal["assistant"]
    content: str
    reasoning: str | None = None
    reasoning_details: dict[str, Any] | None = None


class ChatChoice(Shape):
    index: Literal[0]
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class ChatUsage(Shape):
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class ChatCompletion(Shape):
    model_config = like(
        {
            "id": f"chatcmpl-{ULID}",
            "object": "chat.completion",
            "created": WHEN // 1000,
            "model": "moondream3-preview",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "3"},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 740, "completion_tokens": 2, "total_tokens": 742},
        }
    )

    id: str
    object: Literal["chat.completion"]
    created: Count
    model: str
    choices: Annotated[list[ChatChoice], Field(min_length=1, max_length=1)]
    usage: ChatUsage


_MODEL = {
    "id": f"moondream3-preview/{ULID}@100",
    "object": "model",
    "created": WHEN // 1000,
    "owned_by": "default",
}


class ModelItem(Shape):
    model_config = like(_MODEL)

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str


class ModelList(Shape):
    model_config = like({"object": "list", "data": [_MODEL]})

    object: Literal["list"]
    data: list[ModelItem]
