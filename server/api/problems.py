"""Every exception becomes the one error body here; http-api.md section 3."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.domain.errors import (
    ForbiddenError,
    ImageUrlSchemeError,
    InternalError,
    InvalidJsonError,
    MethodNotAllowedError,
    RouteNotFoundError,
    ServiceError,
    ValidationFailedError,
)
from server.domain.json_text import to_json

_log = structlog.get_logger("server.problems")

TUNING_PREFIX = "/v1/tuning"
_MAX_MESSAGE_LENGTH = 300

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    410: "gone_error",
    413: "too_large_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "overloaded_error",
}


def install(app: FastAPI) -> None:
    """Let the application answer refusals and framework errors with our body."""
    app.add_exception_handler(ServiceError, _answer_service_error)
    app.add_exception_handler(HTTPException, _answer_framework_error)


def problem(error: ServiceError, *, path: str, request_id: str) -> Response:
    """Render a refusal."""
    status = _status(error, path)
    message = error.message[:_MAX_MESSAGE_LENGTH]
    body = {
        "detail": _detail(error, message) if status in (400, 422) else message,
        "message": message,
        "error": {
            "message": message,
            "type": _TYPES.get(status, "server_error"),
            "param": ".".join(str(part) for part in error.loc[1:]) or None,
            "code": error.code,
        },
        "request_id": request_id,
    }
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return Response(
        to_json(body), status_code=status, media_type="application/json", headers=headers
    )


def crash(error: Exception, *, path: str, request_id: str) -> Response:
    """Render what nobody foresaw; the log has the trace, the caller only the request id."""
    _log.error("crash", path=path, request_id=request_id, exc_info=error)
    refusal = InternalError(f"Internal error; the server's log has it under {request_id}.")
    return problem(refusal, path=path, request_id=request_id)


def _note(request: Request, error: ServiceError) -> None:
    """For who logs and remembers this call."""
    request.state.refusal_code = error.code
    request.state.refusal_message = error.message


def _status(error: ServiceError, path: str) -> int:
    """Inference says 400 where tuning says 422; only pictures by URL are 422 everywhere."""
    is_tuning = path.startswith(TUNING_PREFIX)
    if error.status == 422 and not is_tuning and not isinstance(error, ImageUrlSchemeError):
        return 400
    return error.status


def _detail(error: ServiceError, message: str) -> list[dict[str, Any]]:
    if isinstance(error, ValidationFailedError):
        return [
            {"type": fault.type, "loc": list(fault.loc), "msg": fault.message}
            for fault in error.faults
        ]
    kind = "json_invalid" if isinstance(error, InvalidJsonError) else error.code
    return [{"type": kind, "loc": list(error.loc) or ["body"], "msg": message}]


async def _answer_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    _note(request, error)
    return problem(error, path=request.url.path, request_id=request.state.request_id)


async def _answer_framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = _framework_refusal(request, error)
    _note(request, refusal)
    answer = problem(refusal, path=request.url.path, request_id=request.state.request_id)
    if error.headers and "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer


def _framework_refusal(request: Request, error: HTTPException) -> ServiceError:
    if error.status_code == 404:
        return RouteNotFoundError("There is nothing at this address. /openapi.json lists all.")
    if error.status_code == 405:
        return MethodNotAllowedError(f"This address does not take {request.method}.")
    if error.status_code == 403:
        return ForbiddenError(str(error.detail))
    return InternalError(str(error.detail))
