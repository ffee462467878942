"""The OpenAPI document, exact: every status that a route can answer with, and its body.

Bodies are parsed by us, so we also say what they look like. A route names its answer
(`response_model`), its body and its own refusals:

    @router.post("", response_model=FinetuneCreated, openapi_extra=reads(Body, RankConflictError))

The refusals that many routes share (keys, limits, JSON, overload) are added here by what the route
depends on. Tests hold every answer of the API's own tests, and generated calls, against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from server.api.deps import caller
from server.api.examples import EXAMPLES
from server.api.problems import status_on, type_of
from server.api.schemas.answers.shapes import answer_examples
from server.domain.errors import (
    BaseModelMismatchError,
    BatchTooLargeError,
    BodyTooLargeError,
    CheckpointNotFoundError,
    FinetuneNotFoundError,
    ForbiddenError,
    ImageDecodeError,
    ImageTooLargeError,
    ImageUrlSchemeError,
    InternalError,
    InvalidApiKeyError,
    InvalidJsonError,
    ModelNotFoundError,
    NotSupportedError,
    OverloadedError,
    RateLimitedError,
    RequestCrashesWorkerError,
    ServiceError,
    StartingError,
    StateDamagedError,
    StorageFullError,
    ValidationFailedError,
    WorkerUnavailableError,
)

TITLE = "moontune"
DESCRIPTION = "Fine-tuning of Moondream on your own machine."

_REF = "#/components/schemas/{model}"
_REFUSALS = "x-refusals"
_documented: list[type[BaseModel]] = []
_refusals: dict[str, type[ServiceError]] = {}

EVERYWHERE = (ForbiddenError, InternalError, OverloadedError, StateDamagedError)
OF_CALLERS = (InvalidApiKeyError, RateLimitedError)
OF_BODIES = (BodyTooLargeError, InvalidJsonError, ValidationFailedError, StorageFullError)
OF_WORK = (
    NotSupportedError,
    RequestCrashesWorkerError,
    StartingError,
    WorkerUnavailableError,
    BatchTooLargeError,
    StorageFullError,
)
"""What the worker's part of a call may be refused with."""

OF_PICTURES = (ImageDecodeError, ImageTooLargeError, ImageUrlSchemeError)

_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["detail", "message", "error", "request_id"],
    "properties": {
        "detail": {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["type", "loc", "msg"],
                        "properties": {
                            "type": {"type": "string"},
                            "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                            "msg": {"type": "string"},
                        },
                    },
                },
            ]
        },
        "message": {"type": "string"},
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        },
        "request_id": {"type": "string"},
    },
}

OF_ANSWERS = (
    ModelNotFoundError,
    FinetuneNotFoundError,
    CheckpointNotFoundError,
    BaseModelMismatchError,
    *OF_PICTURES,
    *OF_WORK,
)
"""What inference refuses."""

_SECURITY_SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "X-Moondream-Auth"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_HEADERS = {
    "X-Request-Id": {
        "description": "The caller's own, or a new one; the log has it.",
        "schema": {"type": "string"},
    }
}
_RETRY_HEADERS = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def reads(model: type[BaseModel], *refusals: type[ServiceError]) -> dict[str, Any]:
    """Say that a route reads this body, and what it refuses besides what all routes do."""
    _documented.append(model)
    content: dict[str, Any] = {"schema": {"$ref": _REF.format(model=model.__name__)}}
    if model in EXAMPLES:
        content["example"] = EXAMPLES[model]
    body = {"required": True, "content": {"application/json": content}}
    return {"requestBody": body, **refuses(*OF_BODIES, *refusals)}


def streams(example: str) -> dict[str, Any]:
    """Say that a route sends events instead, where its body says `"stream": true`."""
    media = {"schema": {"type": "string"}, "example": example}
    return {"responses": {"200": {"content": {"text/event-stream": media}}}}


def refuses(*refusals: type[ServiceError]) -> dict[str, Any]:
    """Say what a route refuses besides what all routes do."""
    _refusals.update({kind.code: kind for kind in refusals})
    return {_REFUSALS: [kind.code for kind in refusals]}


def lists(*refusals: type[ServiceError], **filters: dict[str, Any]) -> dict[str, Any]:
    """Say that a route answers with pages; `filters` are schemas of what it reads by itself."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in filters.items()
        ],
        **refuses(ValidationFailedError, *refusals),
    }


def reads_bytes(*refusals: type[ServiceError]) -> dict[str, Any]:
    """Say that a route reads raw bytes, and what it refuses besides what all routes do."""
    schema = {"type": "string", "format": "binary"}
    body = {"required": True, "content": {"application/octet-stream": {"schema": schema}}}
    return {"requestBody": body, **refuses(BodyTooLargeError, StorageFullError, *refusals)}


def install(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Let the application describe its bodies, its answers and its refusals."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document_of(routers)
        return app.openapi_schema

    app.openapi = describe


def document_of(routers: Sequence[APIRouter]) -> dict[str, Any]:
    """The OpenAPI document of these routes; needs no application that could serve."""
    bare = FastAPI()
    for router in routers:
        bare.include_router(router)
    document = get_openapi(
        title=TITLE, version=version("moontune"), description=DESCRIPTION, routes=bare.routes
    )
    _, definitions = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(_documented)], ref_template=_REF
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(definitions.get("$defs", {}))
    schemas["Error"] = _ERROR_SCHEMA
    for name, example in answer_examples():
        schemas[name]["examples"] = [example]  # FastAPI leaves out what is null
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["securitySchemes"] = _SECURITY_SCHEMES
    for route in (route for router in routers for route in router.routes):
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                _complete(document["paths"][route.path_format][method.lower()], route)
    return document


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    """Add to the description of one route what FastAPI does not know."""
    kinds = {*EVERYWHERE, *(_refusals[code] for code in operation.pop(_REFUSALS, ()))}
    if _depends_on(route.dependant, caller):
        kinds |= {*OF_CALLERS}
        operation["security"] = [{"key": []}, {"bearer": []}, {}]
    responses = operation["responses"]
    responses.pop("422", None)
    by_status: dict[int, list[type[ServiceError]]] = {}
    for kind in sorted(kinds, key=_code):
        by_status.setdefault(status_on(kind, route.path), []).append(kind)
    for status, group in sorted(by_status.items()):
        responses[str(status)] = _refusal(status, group)
    responses["200"]["headers"] = _HEADERS


def _refusal(status: int, kinds: Sequence[type[ServiceError]]) -> dict[str, Any]:
    codes = [kind.code for kind in kinds]
    example = {
        "detail": [{"type": codes[0], "loc": ["body"], "msg": "..."}]
        if status in (400, 422)
        else "...",
        "message": "...",
        "error": {"message": "...", "type": type_of(status), "param": None, "code": codes[0]},
        "request_id": "01JZ3V6T8Q5W1N2X4C7B9M0KHD",
    }
    content = {"schema": {"$ref": _REF.format(model="Error")}, "example": example}
    headers = {**_HEADERS, **(_RETRY_HEADERS if status in (429, 503) else {})}
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "content": {"application/json": content},
        "headers": headers,
    }


def _code(kind: type[ServiceError]) -> str:
    return kind.code


def _depends_on(dependant: Dependant, call: Any) -> bool:
    return dependant.call is call or any(
        _depends_on(other, call) for other in dependant.dependencies
    )
