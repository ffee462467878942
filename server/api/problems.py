"""Every exception becomes the one error body here; http-api.md section 3."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import FastAPI, Request
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from server.db.trouble import is_damage
from server.domain.errors import (
    ForbiddenError,
    ImageUrlSchemeError,
    InternalError,
    InvalidJsonError,
    MethodNotAllowedError,
    RouteNotFoundError,
    ServiceError,
    StateDamagedError,
    ValidationFailedError,
)
from server.domain.json_text import to_json

_log = structlog.get_logger("server.problems")

TUNING_PREFIX = "/v1/tuning"
CHAT_PREFIX = "/v1/chat"
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
    app.add_exception_handler(DBAPIError, _answer_database_error)


def problem(error: ServiceError, *, path: str, request_id: str) -> Response:
    """Render a refusal."""
    status = status_on(type(error), path)
    message = error.message[:_MAX_MESSAGE_LENGTH]
    body = {
        "detail": _detail(error, message) if status in (400, 422) else message,
        "message": message,
        "error": error_object(error, path=path),
        "request_id": request_id,
    }
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return Response(
        to_json(body), status_code=status, media_type="application/json", headers=headers
    )


def error_object(error: ServiceError, *, path: str) -> dict[str, Any]:
    """The part of the body that OpenAI's clients read."""
    return {
        "message": error.message[:_MAX_MESSAGE_LENGTH],
        "type": type_of(status_on(type(error), path)),
        "param": ".".join(str(part) for part in error.loc[1:]) or None,
        "code": error.code,
    }


def type_of(status: int) -> str:
    """The class of errors that a status belongs to, as clients of OpenAI's API know them."""
    return _TYPES.get(status, "server_error")


def crash(error: Exception, *, path: str, request_id: str) -> Response:
    """Render what nobody foresaw."""
    refusal = crash_refusal(error, path=path, request_id=request_id)
    return problem(refusal, path=path, request_id=request_id)


def _note(request: Request, error: ServiceError) -> None:
    """For who logs and remembers this call."""
    request.state.refusal_code = error.code
    request.state.refusal_message = error.message


def crash_refusal(error: Exception, *, path: str, request_id: str) -> InternalError:
    """Log what nobody foresaw with its trace; the caller gets only the request id."""
    _log.error("crash", path=path, request_id=request_id, exc_info=error)
    return InternalError(f"Internal error; the server's log has it under {request_id}.")


def status_on(kind: type[ServiceError], path: str) -> int:
    """The status of a refusal: inference says 400 where tuning says 422; pictures by URL are 422
    but in chat."""
    if kind.status != 422 or path.startswith(TUNING_PREFIX):
        return kind.status
    if issubclass(kind, ImageUrlSchemeError) and not path.startswith(CHAT_PREFIX):
        return kind.status
    return 400


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


async def _answer_database_error(request: Request, error: Exception) -> Response:
    """Damage is told, as asking again does not mend it; any other error is a crash of ours."""
    assert isinstance(error, DBAPIError)
    if not is_damage(error):
        raise error
    _log.error("state_damaged", detail=str(error))
    return await _answer_service_error(
        request,
        StateDamagedError(
            "The database of the server is damaged; nothing was changed. `moontune doctor` and the"
            " log say what it is: restore a backup."
        ),
    )


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
