"""What the API looks like, for programs and for people who want to try it; no key needed.

The page is Swagger UI, of a package that brings its files, so nothing comes from elsewhere and
the page's policy can forbid everything that this server does not send itself.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from server.api.deps import json_answer

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    " img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page.

Scripts and styles are files of this server. Swagger UI's icons are `data:`, and what it offers
for download `blob:`.
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>moontune API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="api"></div>
<noscript>This page needs JavaScript. The same for programs:
<a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body></html>
"""

_START = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  queryConfigEnabled: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""
"""Keys stay in the tab; neither an address nor another server chooses what the page shows."""

_KEPT = {"Cache-Control": "private, max-age=86400"}


@router.get("/openapi.json")
async def read_openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return json_answer(request.app.openapi())


@router.get("/docs")
async def read_docs() -> Response:
    """The document as a page to read and to try calls from."""
    headers = {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY"}
    return HTMLResponse(_PAGE, headers=headers)


@router.get("/docs/start.js")
async def read_docs_start() -> Response:
    """What the page begins with."""
    return Response(_START, media_type="text/javascript")


@router.get("/docs/swagger-ui-bundle.js")
def read_docs_script() -> Response:
    """Swagger UI."""
    return Response(_resource("swagger-ui-bundle.js"), media_type="text/javascript", headers=_KEPT)


@router.get("/docs/swagger-ui.css")
def read_docs_style() -> Response:
    """How Swagger UI looks."""
    return Response(_resource("swagger-ui.css"), media_type="text/css", headers=_KEPT)


def _resource(name: str) -> bytes:
    return files("fastapi_swagger.resources").joinpath(name).read_bytes()
