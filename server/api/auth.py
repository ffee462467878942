"""Who calls: by key, or in open mode by the name that they call us.

Decided from the headers alone, before a byte of the body is looked at.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request

from server.api.rights import check_right
from server.config import ServerConfig, is_loopback_host
from server.domain.caller import Caller, Scope, set_caller
from server.domain.errors import ForbiddenError, InvalidApiKeyError
from server.services.container import Services

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_PROXY_HEADERS = ("forwarded", "via", "x-real-ip")


async def authenticate(request: Request, services: Services) -> Caller:
    """Return who calls, and let them make this call.

    Raises:
        InvalidApiKeyError: The key is missing or not known.
        ForbiddenError: It may not do this.
        RateLimitedError: It, or this address without a good one, called too often.
    """
    caller = await _caller_of(request, services)
    request.state.caller = caller  # whose refusal it is, if one follows
    set_caller(caller)
    check_right(request, caller.scope)
    services.limits.take_request(caller)
    return caller


async def check_operator(request: Request, services: Services) -> None:
    """Let in who is on this machine, or has a full key; a key that was sent is looked at in any
    case.

    A proxy on this machine speaks for others, so what came through one needs the key.

    Raises:
        InvalidApiKeyError: The key that was sent is not known.
        ForbiddenError: None was sent, from elsewhere, or one of another scope.
    """
    if _sent_key(request) and not await services.keys.is_open():
        caller = await _caller_of(request, services)
        if caller.scope is not Scope.FULL:
            raise ForbiddenError("The metrics of the server need a key with the scope 'full'.")
    elif not _is_from_here(request):
        raise ForbiddenError(
            "This is for callers on the server's own machine, without a proxy, and for those who"
            " send a key with the scope 'full'."
        )


async def check_host(request: Request, services: Services) -> None:
    """In open mode, refuse names that are not ours: a web page must not reach us by its own.

    Raises:
        ForbiddenError: The Host header names somebody else.
    """
    if _is_ours(request.headers.get("host", ""), services.config):
        return
    if await services.keys.is_open():
        raise ForbiddenError(
            "The Host header is not one of this server's names; add it to MOONTUNE_ALLOWED_HOSTS,"
            " or have callers need a key (`moontune keys create`)."
        )


async def _caller_of(request: Request, services: Services) -> Caller:
    try:
        return await services.keys.caller_of(_sent_key(request))
    except InvalidApiKeyError:
        services.limits.take_bad_key("" if request.client is None else request.client.host)
        raise


def _sent_key(request: Request) -> str:
    own = request.headers.get("x-moondream-auth", "").strip()
    if own:
        return own
    scheme, _, key = request.headers.get("authorization", "").strip().partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _is_ours(host_header: str, config: ServerConfig) -> bool:
    host = _host_name(host_header)
    names = ["localhost", config.host, *config.allowed_hosts]
    if config.public_url is not None:
        names.append(urlsplit(config.public_url).hostname or "")
    if host in (name.lower() for name in names):
        return True
    if is_loopback_host(config.host) and host in _LOOPBACK_NAMES:
        return True
    # A page cannot point a name of its own at an address written out.
    return config.host in ("0.0.0.0", "::") and _is_address(host)


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
