"""The address that callers know us by."""

from __future__ import annotations

from starlette.requests import Request

from server.config import ServerConfig


def own_url(request: Request, config: ServerConfig) -> str:
    """Scheme and host, without a slash at the end: `https://tune.example`.

    From `public_url`, else from the request; what a proxy forwarded counts only if we trust it.
    """
    if config.public_url is not None:
        return config.public_url.rstrip("/")
    scheme, host = request.url.scheme, request.headers.get("host", "")
    if is_from_trusted_proxy(request, config):
        scheme = _first(request, "x-forwarded-proto") or scheme
        host = _first(request, "x-forwarded-host") or host
    return f"{scheme}://{host or request.url.netloc}"


def is_from_trusted_proxy(request: Request, config: ServerConfig) -> bool:
    """Whether the peer is one of the configured proxies."""
    peer = "" if request.client is None else request.client.host
    return config.is_trusted_proxy(peer)


def _first(request: Request, header: str) -> str:
    return request.headers.get(header, "").split(",")[0].strip()
