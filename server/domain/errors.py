"""Every refusal the service can give, one class each, with its status and its stable code.

Services raise these; `server/api/problems.py` alone turns them into answers. Source: http-api.md
3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from contract.errors import StorageFull

Loc = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class FieldFault:
    """One fault of a request: where it is, what kind it is, and a sentence for people."""

    loc: Loc
    type: str
    message: str


class ServiceError(Exception):
    """Base of all refusals.

    Attributes:
        status: The HTTP status on the tuning surface; inference says 400 where tuning says 422.
        code: The stable name that clients test against.
        message: What came, what was wanted, what to do; at most 300 characters, never the input.
        loc: Where in the request, beginning with `body`, `query` or `path`; empty if nowhere.
        retry_after: Seconds after which asking again may help.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retry_after: int | None = None

    def __init__(
        self, message: str, *, loc: Sequence[str | int] = (), retry_after: int | None = None
    ):
        super().__init__(message)
        self.message = message
        self.loc: Loc = tuple(loc)
        if retry_after is not None:
            self.retry_after = retry_after

    def at(self, loc: Sequence[str | int]) -> Self:
        """Return the same refusal, pointing at a place in the request."""
        return type(self)(self.message, loc=loc)


class InternalError(ServiceError):
    """Unforeseen; nothing was changed."""


class StorageFullError(ServiceError):
    """A disk is full; nothing was changed."""

    status = 507
    code = "storage_full"

    @classmethod
    def of(cls, full: StorageFull) -> Self:
        """The refusal with the bytes that are known; which disk it is, the log alone says."""
        sizes = ""
        if full.needed_bytes is not None and full.free_bytes is not None:
            sizes = f": {full.needed_bytes} bytes are needed, {full.free_bytes} are free"
        return cls(f"The disk of the server is full{sizes}. Nothing was changed; free some space.")


# --- 401, 403, 404, 405


class InvalidApiKeyError(ServiceError):
    status = 401
    code = "invalid_api_key"


class ForbiddenError(ServiceError):
    status = 403
    code = "forbidden"


class RouteNotFoundError(ServiceError):
    status = 404
    code = "route_not_found"


class FinetuneNotFoundError(ServiceError):
    status = 404
    code = "finetune_not_found"


class CheckpointNotFoundError(ServiceError):
    status = 404
    code = "checkpoint_not_found"


class NoCheckpointError(ServiceError):
    status = 404
    code = "no_checkpoint"


class BatchNotFoundError(ServiceError):
    status = 404
    code = "batch_not_found"


class ModelNotFoundError(ServiceError):
    status = 404
    code = "model_not_found"


class MethodNotAllowedError(ServiceError):
    status = 405
    code = "method_not_allowed"


# --- 409


class RankConflictError(ServiceError):
    status = 409
    code = "rank_conflict"


class IdempotencyKeyReusedError(ServiceError):
    status = 409
    code = "idempotency_key_reused"


class StepConflictError(ServiceError):
    status = 409
    code = "step_conflict"


class BaseModelMismatchError(ServiceError):
    status = 409
    code = "base_model_mismatch"


class OriginConflictError(ServiceError):
    status = 409
    code = "origin_conflict"


class StateDamagedError(ServiceError):
    """What the call needs is damaged or gone on our disk, until an operator has mended it."""

    status = 409
    code = "state_damaged"

    def __init__(self, message: str = "", *, loc: Sequence[str | int] = ()):
        super().__init__(
            message
            or "A stored file that this call needs is missing or damaged on the server's disk; it"
            " was not used, and nothing was changed. `moontune verify` names it and what needs it:"
            " restore a backup, or begin a finetune from another saved step.",
            loc=loc,
        )


# --- 410


class CheckpointDeletedError(ServiceError):
    status = 410
    code = "checkpoint_deleted"


# --- 413


class BodyTooLargeError(ServiceError):
    status = 413
    code = "body_too_large"


class ImageTooLargeError(ServiceError):
    status = 413
    code = "image_too_large"


class BatchTooLargeError(ServiceError):
    status = 413
    code = "batch_too_large"


# --- 422 (400 on inference)


class ValidationFailedError(ServiceError):
    """One or more fields are wrong."""

    status = 422
    code = "validation_error"

    def __init__(
        self,
        message: str,
        *,
        loc: Sequence[str | int] = (),
        type: str = "value_error",
        faults: Sequence[FieldFault] = (),
    ):
        super().__init__(message, loc=faults[0].loc if faults else loc)
        self.faults = tuple(faults) or (FieldFault(loc=self.loc, type=type, message=message),)


class UnknownSkillError(ValidationFailedError):
    code = "unknown_skill"


class InvalidModelError(ValidationFailedError):
    code = "invalid_model"


class LimitExceededError(ValidationFailedError):
    code = "limit_exceeded"


class InvalidJsonError(ServiceError):
    status = 422
    code = "invalid_json"


class ImageUrlSchemeError(ServiceError):
    status = 422
    code = "image_url_scheme"


class ImageDecodeError(ServiceError):
    status = 422
    code = "image_decode_failed"


class RequestCrashesWorkerError(ServiceError):
    status = 422
    code = "request_crashes_worker"


class UnsupportedParameterError(ServiceError):
    status = 400
    code = "unsupported_parameter"


# --- 429


class RateLimitedError(ServiceError):
    """Too often, or too many at once; asking again later will do."""

    status = 429
    code = "rate_limited"
    retry_after = 1


# --- 501, 503


class CallerLeftError(ServiceError):
    """The caller closed the connection while waiting; nobody reads this answer."""

    status = 499
    code = "caller_left"


class NotSupportedError(ServiceError):
    status = 501
    code = "not_supported"


class OverloadedError(ServiceError):
    status = 503
    code = "overloaded"
    retry_after = 5


class StartingError(ServiceError):
    status = 503
    code = "starting"
    retry_after = 5


class WorkerUnavailableError(ServiceError):
    status = 503
    code = "worker_unavailable"
    retry_after = 5
