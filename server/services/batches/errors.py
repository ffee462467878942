"""What ends a batch, and what a line may be at fault for; http-api.md section 16."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class BatchFault(StrEnum):
    """Why a batch failed."""

    INVALID_MODEL = "invalid_model"
    LIMIT_EXCEEDED = "limit_exceeded"
    EMPTY_BATCH = "empty_batch"
    PROCESSING_FAILED = "processing_failed"
    TIMEOUT = "timeout"


class LineFault(StrEnum):
    """Why a line has no result."""

    INVALID_REQUEST = "invalid_request"
    IMAGE_DECODE_FAILED = "image_decode_failed"
    UNKNOWN_SKILL = "unknown_skill"
    PROCESSING_ERROR = "processing_error"


class BatchFailedError(Exception):
    """The whole batch fails; the message is a sentence for its caller."""

    def __init__(self, fault: BatchFault, message: str):
        super().__init__(message)
        self.fault = fault
        self.message = message


class LineRefusedError(Exception):
    """One line is at fault; `id` is that of the line, as far as it could be read."""

    def __init__(self, fault: LineFault, message: str, *, id: Any = None):
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.id = id
