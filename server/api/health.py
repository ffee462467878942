"""Is the process up, and can it work; no key needed."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from server.api.deps import ServicesDep, json_answer
from server.services.dispatch import refusal_of

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Response:
    """The process is up."""
    return json_answer({"status": "ok"})


@router.get("/readyz")
async def readyz(services: ServicesDep) -> Response:
    """The model is loaded and the database answers; else 503 with the reason."""
    services.dispatcher.check_open()
    await services.database.ping()
    status = services.engine.status()
    if status.state != "ready":
        raise refusal_of(status, "")
    return json_answer({"status": "ready", "model": status.model and status.model.name})
