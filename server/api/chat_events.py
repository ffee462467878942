"""The forms of OpenAI's chat completions, whole and in chunks; http-api.md 14."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contract.engine import AnswerDelta, Answered

DONE = b"data: [DONE]\n\n"


class ChatForm:
    """One completion: a whole answer, or the events of a stream.

    Args:
        completion_id: Of all its chunks.
        created: Seconds since 1970.
        model: As the caller named it.
        includes_usage: Whether a stream ends with what it cost; its other chunks say null then.
    """

    closing = DONE

    def __init__(self, *, completion_id: str, created: int, model: str, includes_usage: bool):
        self._facts = {"id": completion_id, "created": created, "model": model}
        self._includes_usage = includes_usage
        self._has_begun = False

    def whole(self, answered: Answered) -> dict[str, Any]:
        """The answer to a call that is not streamed."""
        message: dict[str, Any] = {"role": "assistant", "content": answered.output["answer"]}
        reasoning = answered.output.get("reasoning")
        if reasoning is not None:
            message["reasoning"] = reasoning["text"]
            if reasoning["grounding"]:
                message["reasoning_details"] = {"grounding": reasoning["grounding"]}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": answered.finish_reason.value,
        }
        return self._object("chat.completion", [choice]) | {"usage": _usage(answered)}

    def gained(self, delta: AnswerDelta) -> Iterator[dict[str, Any]]:
        yield from self._begin()
        if delta.reasoning:
            yield self._chunk({"reasoning": delta.reasoning})
        if delta.text:
            yield self._chunk({"content": delta.text})

    def last(self, answered: Answered) -> Iterator[dict[str, Any]]:
        yield from self._begin()
        yield self._chunk({}, answered.finish_reason.value)
        if self._includes_usage:
            usage = {"usage": _usage(answered)}
            yield self._object("chat.completion.chunk", []) | usage

    def _begin(self) -> Iterator[dict[str, Any]]:
        """Who speaks, once."""
        if not self._has_begun:
            self._has_begun = True
            yield self._chunk({"role": "assistant", "content": ""})

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        chunk = self._object("chat.completion.chunk", [choice])
        return chunk | {"usage": None} if self._includes_usage else chunk

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"object": kind, "choices": choices, **self._facts}


def _usage(answered: Answered) -> dict[str, int]:
    return {
        "prompt_tokens": answered.input_tokens,
        "completion_tokens": answered.output_tokens,
        "total_tokens": answered.input_tokens + answered.output_tokens,
    }
