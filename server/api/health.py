"""Is the process up, and can it work; no key needed."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from server.api.deps import ServicesDep, json_answer
from server.api.openapi import refuses
from server.api.schemas.answers.health import Alive, Ready
from server.domain.errors import StartingError, WorkerUnavailableError
from server.services.dispatch import refusal_of

router = APIRouter(tags=["health"])


@router.get("/healthz", response_model=Alive)
async def healthz() -> Response:
    """The process is up."""
    return json_answer({"status": "ok"})


@router.get(
    "/readyz",
    response_model=Ready,
    openapi_extra=refuses(StartingError, WorkerUnavailableError),
)
async def readyz(services: ServicesDep) -> Response:
    """The model is loaded and the database answers; else 503 with the reason."""
    services.dispatcher.check_open()
    await services.database.ping()
    status = services.engine.status()
    if status.state != "ready":
        raise refusal_of(status, "")
    return json_answer({"status": "ready", "model": status.model and status.model.name})
