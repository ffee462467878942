"""Signed files: whoever has the link may read it; http-api.md 12.5."""

from __future__ import annotations

import base64

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from server.api.deps import ServicesDep
from server.api.openapi import refuses
from server.domain.errors import CheckpointNotFoundError
from server.domain.signing import OutputGrant

FILES_PATH = "/v1/files/"

router = APIRouter(tags=["files"])


@router.head(FILES_PATH + "{token}", include_in_schema=False)
@router.get(
    FILES_PATH + "{token}",
    response_class=FileResponse,
    responses={
        200: {"content": {"application/octet-stream": {}}},
        206: {"description": "A range", "content": {"application/octet-stream": {}}},
        416: {"description": "No such range", "content": {"text/plain": {}}},
    },
    openapi_extra=refuses(CheckpointNotFoundError),
)
async def read_file(token: str, services: ServicesDep) -> Response:
    """Send a file, whole or a range of it; needs no key."""
    grant = await services.links.grant(token)
    if isinstance(grant, OutputGrant):
        download = await services.batches.results.open(grant)
    else:
        download = await services.downloads.open(grant)
    sha256 = base64.b64encode(bytes.fromhex(download.digest)).decode()
    return FileResponse(
        download.path,
        filename=download.name,
        media_type="application/octet-stream",
        headers={"Repr-Digest": f"sha-256=:{sha256}:"},  # RFC 9530
    )
