"""What who runs the service may read: its metrics, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from server.api.auth import check_operator
from server.api.deps import ServicesDep
from server.api.openapi import refuses
from server.domain.errors import InvalidApiKeyError
from server.prometheus import CONTENT_TYPE, Exposition

router = APIRouter(tags=["operations"])


@router.get("/metrics", response_class=PlainTextResponse, openapi_extra=refuses(InvalidApiKeyError))
async def read_metrics(request: Request, services: ServicesDep) -> Response:
    """What was counted, as Prometheus text; for this machine, or with a full key."""
    await check_operator(request, services)
    exposition: Exposition = request.app.state.exposition
    return Response(exposition.text(), media_type=CONTENT_TYPE)
