"""What the API looks like, for programs and for people; no key needed."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from server.api.deps import json_answer
from server.api.docs_page import POLICY, docs_page

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def read_openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return json_answer(request.app.openapi())


@router.get("/docs")
async def read_docs(request: Request) -> Response:
    """The same as a page, which needs nothing from elsewhere."""
    return HTMLResponse(
        docs_page(request.app.openapi()),
        headers={"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY"},
    )
