"""Who calls: by key, or in open mode by the name that they call us."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request

from server.config import ServerConfig, is_loopback_host
from server.domain.errors import ForbiddenError, InvalidApiKeyError

DEFAULT_ACCOUNT = "default"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_PROXY_HEADERS = ("forwarded", "via", "x-real-ip")


def account_of(request: Request, config: ServerConfig) -> str:
    """Return the account of the caller.

    Raises:
        InvalidApiKeyError: A key is configured, and another or none was sent.
    """
    if config.api_key is None:
        return DEFAULT_ACCOUNT
    sent = _sent_key(request)
    if not sent:
        raise InvalidApiKeyError(
            "No API key was sent; use the header X-Moondream-Auth, or Authorization: Bearer."
        )
    if not hmac.compare_digest(sent.encode(), config.api_key.get_secret_value().encode()):
        raise InvalidApiKeyError(
            "The API key is not known; send the one that the server was started with"
            " (MOONTUNE_API_KEY)."
        )
    return DEFAULT_ACCOUNT


def check_operator(request: Request, config: ServerConfig) -> None:
    """Let in who is on this machine, or has the key; a key that was sent is looked at in any case.

    A proxy on this machine speaks for others, so what came through one needs the key.

    Raises:
        InvalidApiKeyError: Another key than the configured one was sent.
        ForbiddenError: None was sent, from elsewhere, or there is none that could be.
    """
    if config.api_key is not None and _sent_key(request):
        account_of(request, config)
    elif not _is_from_here(request):
        raise ForbiddenError(
            "This is for callers on the server's own machine, without a proxy, and for those who"
            " send the server's API key (MOONTUNE_API_KEY)."
        )


def check_host(request: Request, config: ServerConfig) -> None:
    """In open mode, refuse names that are not ours: a web page must not reach us by its own.

    Raises:
        ForbiddenError: The Host header names somebody else.
    """
    if not config.is_open:
        return
    host = _host_name(request.headers.get("host", ""))
    names = ["localhost", config.host, *config.allowed_hosts]
    if config.public_url is not None:
        names.append(urlsplit(config.public_url).hostname or "")
    if host in (name.lower() for name in names):
        return
    if is_loopback_host(config.host) and host in _LOOPBACK_NAMES:
        return
    if config.host in ("0.0.0.0", "::") and _is_address(host):
        return  # a page cannot point a name of its own at an address written out
    raise ForbiddenError(
        "The Host header is not one of this server's names; add it to MOONTUNE_ALLOWED_HOSTS,"
        " or set MOONTUNE_API_KEY."
    )


def _sent_key(request: Request) -> str:
    own = request.headers.get("x-moondream-auth", "").strip()
    if own:
        return own
    scheme, _, key = request.headers.get("authorization", "").strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is_from_here(request: Request) -> bool:
    if any(name in _PROXY_HEADERS or name.startswith("x-forwarded-") for name in request.headers):
        return False
    try:
        peer = ipaddress.ip_address("" if request.client is None else request.client.host)
    except ValueError:
        return False
    mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
    return (mapped or peer).is_loopback


def _host_name(host: str) -> str:
    """`[::1]:2021` -> `::1`, `localhost:2021` -> `localhost`."""
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name.lower() if not rest or rest.startswith(":") else host
    return host.partition(":")[0].lower()


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
