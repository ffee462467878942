"""What the inference skills answer, and the events of their streams; http-api.md 13.2, 13.3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contract.engine import AnswerDelta, Answered


def answer_facts(answered: Answered, request_id: str) -> dict[str, Any]:
    """What every answer says beside its output."""
    return {
        "request_id": request_id,
        "finish_reason": answered.finish_reason.value,
        "metrics": {
            "input_tokens": answered.input_tokens,
            "output_tokens": answered.output_tokens,
            "prefill_time_ms": answered.prefill_time_ms,
            "decode_time_ms": answered.decode_time_ms,
            "ttft_ms": answered.ttft_ms,
        },
    }


class TextEvents:
    """Of query and caption: chunks of the text, then the whole answer."""

    closing = b""

    def __init__(self, *, request_id: str, account_id: str):
        self._request_id = request_id
        self._account_id = account_id

    def gained(self, delta: AnswerDelta) -> Iterator[dict[str, Any]]:
        yield {"chunk": delta.text, "completed": False, "request_id": self._request_id}

    def last(self, answered: Answered) -> Iterator[dict[str, Any]]:
        yield {
            "chunk": "",
            "completed": True,
            "org_id": self._account_id,
            **answer_facts(answered, self._request_id),
            **answered.output,
        }


class SegmentEvents:
    """The box, then chunks of the path, then both; without a box, the last event alone."""

    closing = b""

    def gained(self, delta: AnswerDelta) -> Iterator[dict[str, Any]]:
        if delta.bbox is not None:
            yield {"type": "bbox", "bbox": delta.bbox}
        if delta.text:
            yield {"type": "path_delta", "chunk": delta.text, "completed": False}

    def last(self, answered: Answered) -> Iterator[dict[str, Any]]:
        output = answered.output
        yield {"type": "final", "path": output["path"], "bbox": output["bbox"], "completed": True}
