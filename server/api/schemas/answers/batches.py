"""Answers about batches and their uploads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from server.api.schemas.answers.shapes import ULID, Count, Page, Shape, like

_BATCH = {
    "id": ULID,
    "status": "completed",
    "model": "moondream3-preview",
    "progress": {"total": 2, "completed": 1, "failed": 1},
    "created_at": "2025-01-15T10:30:00Z",
    "usage": {"input_tokens": 1480, "output_tokens": 4},
    "outputs": [{"index": 0, "url": "http://127.0.0.1:2020/v1/files/eyJ..."}],
    "completed_at": "2025-01-15T10:31:00Z",
    "expires_at": "2025-01-22T10:31:00Z",
}


class UploadBegun(Shape):
    model_config = like({"fileId": ULID, "uploadId": ULID, "key": f"requests/default/{ULID}.jsonl"})

    fileId: str  # noqa: N815 -- their names on the wire
    uploadId: str  # noqa: N815
    key: str


class PartKept(Shape):
    model_config = like({"etag": "9f86d081...", "partNumber": 1})

    etag: str
    partNumber: Annotated[int, Field(ge=1, le=10_000)]  # noqa: N815


BatchStatus = Literal["chunking", "processing", "completed", "failed"]


class BatchBegun(Shape):
    model_config = like({"id": ULID, "status": "chunking", "size": 2048})

    id: str
    status: BatchStatus
    size: Count


class BatchProgress(Shape):
    total: Count
    completed: Count
    failed: Count


class BatchUsage(Shape):
    input_tokens: Count
    output_tokens: Count


class BatchOutput(Shape):
    index: Count
    url: str


class BatchError(Shape):
    code: Literal[
        "invalid_model",
        "validation_error",
        "limit_exceeded",
        "empty_batch",
        "processing_failed",
        "timeout",
    ]
    message: str


class BatchItem(Shape):
    model_config = like(_BATCH)

    id: str
    status: BatchStatus
    model: str
    progress: BatchProgress
    created_at: str
    usage: BatchUsage | None = None
    outputs: list[BatchOutput] | None = None
    completed_at: str | None = None
    expires_at: str | None = None
    error: BatchError | None = None


class BatchPage(Page):
    model_config = like({"batches": [_BATCH], "next_cursor": None, "has_more": False})

    batches: list[BatchItem]
